"""What `benches/report.py` is made of: parts that measure and render, and what they share.

A part measures by running the benches and gives a dictionary that JSON can hold; what it prints and draws it takes from
that dictionary alone, so that a report can be made again from files. `budget`, `threads`, `sizes`, `peers` and `python`
are the parts, each a module of its own; `document` puts them together.
"""
