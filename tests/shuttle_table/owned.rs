//! Pages that have one owner: he alone changes them, and knows what they are.

use super::*;

/// What an owner knows of its pages: all of them are alike but for their place.
#[derive(Clone, Copy, Debug)]
pub struct Owned {
    ipa: u64,
    size: u64,
    /// What the first of them maps to.
    pa: Option<u64>,
    prot: Prot,
    mark: Option<u64>,
}

impl Owned {
    pub fn new(ipa: u64, size: u64) -> Self {
        let (pa, prot, mark) = (None, Prot::NONE, None);
        Self {
            ipa,
            size,
            pa,
            prot,
            mark,
        }
    }

    fn at(&self) -> Ipa {
        Ipa::new(self.ipa)
    }

    /// Out of frames, perhaps half way: what is one page is as it was, of several nothing stays.
    fn gave_up(&mut self, view: &View<'_>) {
        if self.size > PAGE {
            view.unmap(self.at(), self.size).unwrap(); // whole entries: takes no frame
            (self.pa, self.mark) = (None, None);
        }
    }

    /// One operation by the owner.
    pub fn change(&mut self, view: &View<'_>, kvm: bool) {
        match pick(if kvm { 6 } else { 8 }) {
            0 | 1 => self.map(view, kvm),
            2 => self.unmap(view),
            3 => self.write_protect(view),
            4 => self.relax(view),
            5 => self.fault_in_stay(view),
            6 => self.protect(view),
            _ => self.mark(view),
        }
    }

    fn map(&mut self, view: &View<'_>, kvm: bool) {
        let existing = if kvm {
            Existing::Replace
        } else {
            one_of(&[Existing::Replace, Existing::Keep, Existing::Error])
        };
        let options = MapOptions {
            existing,
            largest: one_of(&[None, Some(Level::L3)]),
            ..MapOptions::default()
        };
        let (mut pa, prot) = (output(self.ipa), one_of(&[Prot::R, Prot::RW]));
        // KVM leaves a leaf with the same output alone, whatever the rights, unless it is merged by the way: not decidable.
        if kvm && self.pa == Some(pa) {
            pa ^= 0x30_0000;
        }
        let occupied = self.pa.is_some() || self.mark.is_some();
        match view.map(self.at(), self.size, Pa::new(pa), &Attrs::new(prot), options) {
            Ok(_) => {
                assert!(existing == Existing::Replace || !occupied, "mapped over {self:?}");
                (self.pa, self.prot) = (Some(pa), prot);
            }
            Err(Error::Again { .. }) => assert!(occupied && existing == Existing::Keep, "{self:?}"),
            Err(Error::Conflict { .. }) => {
                let refused = existing == Existing::Error && occupied || self.mark.is_some();
                assert!(refused, "{self:?}");
            }
            Err(Error::OutOfFrames { .. }) => self.gave_up(view),
            Err(error) => panic!("{error}"),
        }
    }

    fn unmap(&mut self, view: &View<'_>) {
        match view.unmap(self.at(), self.size) {
            Ok(removed) => {
                assert_eq!(removed, if self.pa.is_some() { self.size } else { 0 }, "{self:?}");
                (self.pa, self.mark) = (None, None);
            }
            Err(Error::OutOfFrames { .. }) => assert_eq!(self.size, PAGE, "whole entries take no frame"),
            Err(error) => panic!("{error}"),
        }
    }

    fn write_protect(&mut self, view: &View<'_>) {
        match view.write_protect(self.at(), self.size) {
            Ok(changed) => {
                assert_eq!(changed.bytes, if self.pa.is_some() { self.size } else { 0 }, "{self:?}");
                self.prot -= Prot::W;
            }
            Err(Error::OutOfFrames { .. }) => self.gave_up(view),
            Err(error) => panic!("{error}"),
        }
    }

    fn protect(&mut self, view: &View<'_>) {
        let prot = one_of(&[Prot::R, Prot::RW, Prot::RX]);
        match view.protect(self.at(), self.size, prot) {
            Ok(_) => self.prot = prot,
            Err(Error::NotMapped { .. }) => assert!(self.pa.is_none(), "{self:?}"),
            Err(Error::OutOfFrames { .. }) => self.gave_up(view),
            Err(error) => panic!("{error}"),
        }
    }

    fn relax(&mut self, view: &View<'_>) {
        if self.pa.is_none() {
            return;
        }
        loop {
            match view.relax(self.at(), self.size, Prot::W) {
                Ok(_) => self.prot |= Prot::W,
                // KVM's fault path meets an entry that a peer holds, and the vCPU faults again.
                Err(Error::Again { .. }) => {
                    thread::yield_now();
                    continue;
                }
                Err(Error::OutOfFrames { .. }) => self.gave_up(view),
                Err(error) => panic!("{error}: {self:?}"),
            }
            return;
        }
    }

    /// A vCPU's faults: in a stay, and without waiting.
    fn fault_in_stay(&mut self, view: &View<'_>) {
        if self.size > PAGE {
            return;
        }
        let (pa, prot) = (output(self.ipa), Prot::R);
        let vcpu = view.without_waiting();
        let mut stay = vcpu.stay();
        self.check(&stay);
        if pick(2) == 0 {
            stay.repin();
        }
        match stay.map(self.at(), PAGE, Pa::new(pa), &Attrs::new(prot), MapOptions::FAULT) {
            Ok(_) => {
                assert!(self.pa.is_none() && self.mark.is_none(), "mapped over {self:?}");
                (self.pa, self.prot) = (Some(pa), prot);
            }
            // Something is there, or a peer holds what is above.
            Err(Error::Again { .. } | Error::Conflict { .. } | Error::OutOfFrames { .. }) => {}
            Err(error) => panic!("{error}: {self:?}"),
        }
    }

    fn mark(&mut self, view: &View<'_>) {
        let owner = pick(3);
        match view.annotate(self.at(), self.size, owner) {
            Ok(()) => (self.pa, self.mark) = (None, (owner > 0).then_some(owner)),
            Err(Error::OutOfFrames { .. }) => self.gave_up(view),
            Err(error) => panic!("{error}"),
        }
    }

    /// They are as the owner left them.
    pub fn check(&self, view: &View<'_>) {
        let ipa = self.ipa + PAGE * pick(self.size / PAGE);
        let expected = self.pa.map(|pa| (pa + (ipa - self.ipa), self.prot));
        loop {
            let found = view.lookup(Ipa::new(ipa)).unwrap();
            if found.pte.is_locked() {
                thread::yield_now(); // cut, or merged, by somebody
                continue;
            }
            let offset = ipa - found.base.get();
            let leaf = found.pte.is_leaf(found.level);
            let translated = leaf.then(|| {
                let pa = view.format().output(found.pte, found.level).get() + offset;
                (pa, view.format().prot(found.pte))
            });
            assert_eq!(translated, expected, "{ipa:#x} of {self:?}");
            if let Some(mark) = self.mark {
                assert_eq!(Some(found.pte), Pte::annotated(mark), "{ipa:#x} of {self:?}");
            }
            return;
        }
    }
}
