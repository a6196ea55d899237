//! Handles that wait for nobody: they answer `Again` and have changed nothing, or have done it.

use super::*;
use s2pt::sync::explore;

fn again<T: core::fmt::Debug>(result: Result<T, Error>) -> Option<T> {
    match result {
        Ok(done) => Some(done),
        Err(Error::Again { .. }) => None,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_fault_that_does_not_wait_meets_a_replacement() {
    explore("fault without waiting/replace", || {
        let table = table(2, 2);
        map_pages(&table, 0, 1, A, Prot::RW);
        let other = spawn(&table, |view| map(view, 0, PAGE, B, Prot::RW, Existing::Replace));
        let vcpu = table.handle().without_waiting();
        assert!(
            !map(&vcpu, 0, PAGE, A, Prot::RW, Existing::Keep),
            "something is there, or LOCKED"
        );
        let relaxed = again(vcpu.relax(Ipa::new(0), PAGE, Prot::X));
        assert!(relaxed.is_none_or(|changed| changed.bytes == PAGE));
        drop(vcpu);
        assert!(other.join().unwrap());
        assert_eq!(outputs(&table, 1), [Some(B)]);
        settled(&table);
    });
}

#[test]
fn an_unmap_that_does_not_wait_meets_a_replacement() {
    explore("unmap of the table without waiting/replace", || {
        let table = table(2, 3);
        map_pages(&table, 0, 1, A, Prot::RW);
        let other = spawn(&table, |view| map(view, 0, PAGE, B, Prot::RW, Existing::Replace));
        let view = table.handle().without_waiting();
        let removed = again(view.unmap(Ipa::new(0), 2 * PAGE));
        drop(view);
        assert!(other.join().unwrap());
        let left = outputs(&table, 1)[0];
        match removed {
            Some(removed) => assert!(removed == PAGE && matches!(left, None | Some(B)), "{left:?}"),
            None => assert_eq!(left, Some(B)),
        }
        settled(&table);
    });
}

#[test]
fn a_protect_that_does_not_wait_meets_a_replacement() {
    explore("write_protect without waiting/replace", || {
        let table = table(2, 2);
        map_pages(&table, 0, 2, A, Prot::RW);
        let other = spawn(&table, |view| map(view, 0, PAGE, B, Prot::RW, Existing::Replace));
        let view = table.handle().without_waiting();
        let protected = again(view.write_protect(Ipa::new(0), 2 * PAGE));
        drop(view);
        assert!(other.join().unwrap());
        // Done as far as the entry that was LOCKED: the first.
        let expected = if protected.is_some() { Prot::R } else { Prot::RW };
        assert_eq!(prot(&table, PAGE), Some(expected));
        assert_eq!(outputs(&table, 2), [Some(B), Some(A + PAGE)]);
        settled(&table);
    });
}

#[test]
fn a_map_that_does_not_wait_meets_a_collapse() {
    explore("map without waiting/collapse", || {
        let table = table(2, 2);
        map_pages(&table, 0, 2, A, Prot::RW);
        let other = spawn(&table, |view| view.collapse(Ipa::new(0), 2 * PAGE).unwrap());
        let vcpu = table.handle().without_waiting();
        assert!(!map(&vcpu, 0, PAGE, B, Prot::RW, Existing::Keep));
        drop(vcpu);
        assert_eq!(other.join().unwrap(), 1);
        assert_eq!(outputs(&table, 2), [Some(A), Some(A + PAGE)]);
        settled(&table);
    });
}
