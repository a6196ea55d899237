//! Every interleaving of a few takes and frees, memory orderings included.
//!
//! A frame's contents are a cell without synchronisation of its own: loom fails the model if two threads touch one
//! without an order between them, so these models fail if the list hands a frame out twice, and also if it hands one
//! out whose zeros are not visible yet.

use loom::cell::UnsafeCell;

use super::counts::Counts;
use super::free_list::{FreeList, Links};
use crate::sync::{Arc, AtomicU32, explore, is_unseen, thread};

const FRAMES: usize = 2;

struct Pool {
    list: FreeList,
    counts: Counts,
    links: [AtomicU32; FRAMES],
    contents: [UnsafeCell<u64>; FRAMES],
}

impl Links for Pool {
    fn next(&self, index: u32) -> &AtomicU32 {
        &self.links[index as usize]
    }
}

// SAFETY: loom checks that accesses to the cells are ordered, which is what the models are for.
unsafe impl Send for Pool {}
// SAFETY: as above.
unsafe impl Sync for Pool {}

impl Pool {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            list: FreeList::new(FRAMES as u32),
            counts: Counts::default(),
            links: Default::default(),
            contents: Default::default(),
        })
    }

    fn pop(&self) -> Option<u32> {
        let index = self.list.pop(self)?;
        if is_unseen() {
            return Some(index);
        }
        // SAFETY: the frame is this thread's; loom checks it.
        self.contents[index as usize].with(|cell| assert_eq!(unsafe { *cell }, 0, "not zeroed"));
        self.write(index, 1);
        Some(index)
    }

    fn push(&self, index: u32) {
        self.write(index, 0);
        self.list.push(self, index);
    }

    fn write(&self, index: u32, value: u64) {
        if !is_unseen() {
            // SAFETY: as in `pop`.
            self.contents[index as usize].with_mut(|cell| unsafe { *cell = value });
        }
    }

    /// Both frames are there, and no third.
    fn assert_whole(&self) {
        let mut all = [self.pop().unwrap(), self.pop().unwrap()];
        all.sort_unstable();
        assert_eq!((all, self.pop()), ([0, 1], None));
        assert_eq!(self.list.touched(), FRAMES as u32);
    }
}

#[test]
fn two_threads_take_and_free() {
    explore("frames: take and free/take and free twice", || {
        let pool = Pool::new();
        let work = |pool: &Pool, rounds| {
            for _ in 0..rounds {
                if let Some(index) = pool.pop() {
                    pool.push(index);
                }
            }
        };
        let peer = {
            let pool = pool.clone();
            thread::spawn(move || work(&pool, 2))
        };
        work(&pool, 1);
        peer.join().unwrap();
        let mut found = Vec::new();
        found.extend(std::iter::from_fn(|| pool.pop()));
        found.sort_unstable();
        assert_eq!(found, [0, 1]);
    });
}

/// One thread reads the head and its link; the other takes both frames and puts the first back: same head, other link.
#[test]
fn a_head_that_came_back_is_not_mistaken() {
    explore("frames: take/take two, free the first", || {
        let pool = Pool::new();
        let (a, b) = (pool.pop().unwrap(), pool.pop().unwrap());
        pool.push(b);
        pool.push(a);
        let peer = {
            let pool = pool.clone();
            thread::spawn(move || {
                let first = pool.pop();
                let second = pool.pop();
                first.into_iter().for_each(|index| pool.push(index));
                second
            })
        };
        let mine = pool.pop();
        let theirs = peer.join().unwrap();
        assert!(mine.is_none() || mine != theirs, "frame {mine:?} handed out twice");
        mine.into_iter().chain(theirs).for_each(|index| pool.push(index));
        pool.assert_whole();
    });
}

/// Whoever is granted a reservation finds a frame, at the first look.
#[test]
fn a_granted_reservation_finds_a_frame() {
    explore("frames: reserve and take/free", || {
        let pool = Pool::new();
        pool.counts.occupy(2, FRAMES).unwrap();
        let frames = [0; FRAMES].map(|_| pool.pop().unwrap());
        let peer = {
            let pool = pool.clone();
            thread::spawn(move || {
                pool.counts.free(|| pool.push(frames[0]));
                pool.counts.put_back(|| pool.push(frames[1]));
                pool.counts.unreserve(1);
            })
        };
        let mut taken = Vec::new();
        for _ in 0..2 {
            if pool.counts.reserve(1, FRAMES).is_ok() {
                pool.counts.take();
                taken.push(pool.pop().expect("a frame for the reservation"));
            }
        }
        peer.join().unwrap();
        assert_eq!(pool.counts.get(), (taken.len(), 0));
        for index in taken {
            pool.counts.free(|| pool.push(index));
        }
        pool.assert_whole();
    });
}
