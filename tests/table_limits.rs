//! One leaf can be larger than the output space: refused, as every request beyond it, in every geometry.

use s2pt::arch::{Attrs, Geometry, GeometryOptions, Granule, Ipa, Level, Pa, Prot};
use s2pt::memory::{Arena, ArenaOptions};
use s2pt::table::{Config, Error, MapOptions, Null, Stage2};

#[test]
fn a_block_larger_than_the_output_space_is_refused() {
    let mut larger = 0;
    for granule in Granule::ALL {
        for (lpa2, ipa_bits, pa_bits) in [false, true]
            .into_iter()
            .flat_map(|lpa2| [36, 40, 44, 48, 52].map(|ipa_bits| (lpa2, ipa_bits)))
            .flat_map(|(lpa2, ipa)| [32, 36, 40, 42, 44, 48, 52].map(|pa| (lpa2, ipa, pa)))
        {
            let options = GeometryOptions {
                granule,
                ipa_bits,
                pa_bits,
                lpa2,
                ..GeometryOptions::default()
            };
            let Ok(geometry) = Geometry::new(options) else { continue };
            let arena = ArenaOptions {
                base: Pa::new(0),
                granule,
                capacity_frames: 64,
                ..ArenaOptions::default()
            };
            let table = Stage2::new(Config::new(geometry), Arena::new(arena).unwrap(), Null).unwrap();
            let view = table.handle();
            for level in Level::ALL.into_iter().filter(|&level| level >= geometry.start_level()) {
                let (size, attrs) = (geometry.size(level), Attrs::new(Prot::RW));
                let done = view.map(Ipa::new(0), size, Pa::new(0), &attrs, MapOptions::FAULT);
                if size > geometry.pa_limit() {
                    larger += 1;
                    assert!(
                        matches!(done, Err(Error::Address { what: "pa", .. })),
                        "{options:?} {size:#x}: {done:?}"
                    );
                } else {
                    assert_eq!(done.unwrap().bytes, size, "{options:?}");
                    assert_eq!(view.unmap(Ipa::new(0), size).unwrap(), size);
                }
            }
        }
    }
    assert!(larger > 0, "no geometry has such a block");
}
