//! VTCR_EL2: the shape of the table as the hardware walker reads it.

mod fields;

use super::{bit, field};
use crate::arch::{BlockRule, Geometry, GeometryOptions, Granule, Level};
pub use fields::{VtcrError, VtcrFields};

/// Write-back, read- and write-allocate: IRGN0 and ORGN0.
const WRITE_BACK: u64 = 1;
/// SH0.
const INNER_SHAREABLE: u64 = 3;
const VS: u32 = 19;
const HA: u32 = 21;
const HD: u32 = 22;
const RES1: u32 = 31;
const DS: u32 = 32;
const SL2: u32 = 33;
/// PA sizes by PS value; 7 would be 56 bits, which only 128-bit descriptors have.
const PA_BITS: [u8; 7] = [32, 36, 40, 42, 44, 48, 52];
/// All bits that have a meaning: [`VtcrFields`] has a field for each.
const KNOWN: u64 = 0x0000_337f_fe6f_ffff;

/// A VTCR_EL2 value.
///
/// ```
/// use s2pt::arch::{Geometry, GeometryOptions, Level, Vtcr, VtcrOptions};
/// let geometry = Geometry::new(GeometryOptions::default())?; // 4K, 40-bit IPA, 48-bit PA
/// let vtcr = Vtcr::build(&geometry, VtcrOptions::default());
/// assert_eq!(vtcr.raw(), 0x802d_3558); // what KVM writes for such a guest
/// assert_eq!(vtcr.geometry()?, geometry);
/// assert_eq!(Vtcr::new(0x802d_f558).geometry().unwrap_err().to_string(), "TG0 = 3 is no granule");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Vtcr(u64);

register!(Vtcr);

/// What [`Vtcr::build`] adds to the geometry. `Default`: 16-bit VMIDs and hardware access flag, as KVM on a CPU that
/// has both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct VtcrOptions {
    /// 16-bit VMIDs (VS), else 8-bit.
    pub vmid16: bool,
    /// Hardware sets the access flag (HA).
    pub ha: bool,
    /// Hardware sets write permission where DBM allows it (HD). Implies HA, without which it has no effect.
    pub hd: bool,
}

impl Default for VtcrOptions {
    fn default() -> Self {
        Self {
            vmid16: true,
            ha: true,
            hd: false,
        }
    }
}

impl Vtcr {
    /// The register for a table of this shape: write-back inner shareable walks, reserved bits as the architecture
    /// wants them.
    pub fn build(geometry: &Geometry, options: VtcrOptions) -> Self {
        let start = geometry.start_level().get();
        let (sl0, sl2) = match (geometry.granule(), start) {
            (Granule::K4, -1) => (0, 1),
            (Granule::K4, 3) => (3, 0), // FEAT_TTST
            (Granule::K4, _) => (2 - start, 0),
            (Granule::K16 | Granule::K64, _) => (3 - start, 0),
        };
        let tg0 = match geometry.granule() {
            Granule::K4 => 0,
            Granule::K64 => seeded!(BuildTg0, 2, 1),
            Granule::K16 => seeded!(BuildTg0, 1, 2),
        };
        let ps = PA_BITS
            .iter()
            .position(|&bits| bits == geometry.pa_bits())
            .unwrap_or(PA_BITS.len() - 1) as u64;
        Self(
            u64::from(seeded!(BuildT0sz, 65, 64) - geometry.ipa_bits())
                | (seeded!(BuildSl0, sl0 + 1 & 3, sl0) as u64) << 6
                | WRITE_BACK << 8
                | WRITE_BACK << 10
                | INNER_SHAREABLE << 12
                | tg0 << 14
                | ps << 16
                | u64::from(options.vmid16) << VS
                | u64::from(seeded!(BuildHa, false, options.ha || options.hd)) << HA
                | u64::from(options.hd) << HD
                | 1 << RES1
                | u64::from(seeded!(BuildDs, false, geometry.lpa2())) << DS
                | sl2 << SL2,
        )
    }

    /// All fields.
    pub const fn decode(self) -> VtcrFields {
        let raw = self.0;
        VtcrFields {
            t0sz: field(raw, 0, 6) as u8,
            sl0: field(raw, 6, 2) as u8,
            irgn0: field(raw, 8, 2) as u8,
            orgn0: field(raw, 10, 2) as u8,
            sh0: field(raw, 12, 2) as u8,
            tg0: field(raw, 14, 2) as u8,
            ps: field(raw, 16, 3) as u8,
            vs: bit(raw, VS),
            ha: bit(raw, HA),
            hd: bit(raw, HD),
            hwu: field(raw, 25, 4) as u8,
            nsw: bit(raw, 29),
            nsa: bit(raw, 30),
            res1: bit(raw, RES1),
            ds: bit(raw, DS),
            sl2: bit(raw, SL2),
            assured_only: bit(raw, 34),
            tl1: bit(raw, 35),
            s2pie: bit(raw, 36),
            s2poe: bit(raw, 37),
            d128: bit(raw, 38),
            gcsh: bit(raw, 40),
            tl0: bit(raw, 41),
            haft: bit(raw, 44),
            hdbss: bit(raw, 45),
            res0: raw & !KNOWN,
        }
    }

    /// The granule that TG0 says.
    ///
    /// # Errors
    /// TG0 = 3.
    pub const fn granule(self) -> Result<Granule, VtcrError> {
        match self.decode().tg0 {
            0 => Ok(Granule::K4),
            1 => Ok(Granule::K64),
            2 => Ok(Granule::K16),
            tg0 => Err(VtcrError::Granule { tg0 }),
        }
    }

    /// The start level that SL2, SL0, TG0 and DS say, level 3 included; whether the IPA size fits it is not looked at.
    ///
    /// # Errors
    /// TG0 = 3, or an encoding that is reserved for the granule.
    pub fn start_level(self) -> Result<Level, VtcrError> {
        let granule = self.granule()?;
        let VtcrFields { sl0, sl2, ds, .. } = self.decode();
        let reserved = VtcrError::StartLevel { sl0, sl2, granule, ds };
        match (granule, sl2, sl0) {
            (Granule::K4, false, 0) => Ok(seeded!(ReadSl0, Level::L1, Level::L2)),
            (Granule::K4, false, 1) => Ok(seeded!(ReadSl0, Level::L2, Level::L1)),
            (Granule::K4, false, 2) => Ok(Level::L0),
            (Granule::K4, false, 3) => Ok(Level::L3), // FEAT_TTST
            (Granule::K4, true, 0) if ds => Ok(Level::LM1),
            (Granule::K16 | Granule::K64, false, 0) => Ok(Level::L3),
            (Granule::K16 | Granule::K64, false, 1) => Ok(Level::L2),
            (Granule::K16 | Granule::K64, false, 2) => Ok(Level::L1),
            (Granule::K16, false, 3) if ds => Ok(Level::L0),
            _ => Err(reserved),
        }
    }

    /// The register as a walk takes it: DS is no field with 64K, SL2 none but with 4K and DS; hardware ignores them there.
    const fn in_effect(self) -> Self {
        let fields = self.decode();
        let ds = fields.ds && fields.tg0 != 1;
        let sl2 = fields.sl2 && ds && fields.tg0 == 0;
        Self(self.0 & !(1 << DS | 1 << SL2) | (ds as u64) << DS | (sl2 as u64) << SL2)
    }

    /// Size of the IPA space in bits, 64 - T0SZ; 1..=64.
    pub const fn ipa_bits(self) -> u8 {
        64 - self.decode().t0sz
    }

    /// Size of output addresses in bits. 52 without DS and with 4K or 16K counts as 48, as the hardware takes it.
    ///
    /// # Errors
    /// TG0 = 3 or PS = 7.
    pub fn pa_bits(self) -> Result<u8, VtcrError> {
        let granule = self.granule()?;
        let VtcrFields { ps, ds, .. } = self.decode();
        let size = PA_BITS.get(usize::from(seeded!(ReadPs, (ps + 1).min(6), ps)));
        let bits = *size.ok_or(VtcrError::PaSize { ps })?;
        Ok(if granule == Granule::K64 || ds {
            bits
        } else {
            bits.min(48)
        })
    }

    /// Width of VMIDs, 8 or 16 bits.
    pub const fn vmid_bits(self) -> u8 {
        if self.decode().vs { 16 } else { 8 }
    }

    /// The shape of the table, with the architecture's block levels.
    ///
    /// Checks every rule that a walk depends on; [`Vtcr::validate`] checks the rest, as hardware does not: bits that
    /// are reserved beside others, such as SL2 without DS, have no effect here.
    ///
    /// # Errors
    /// [`VtcrError`] names the rule that failed. Rules of FEAT_TTST count as those of a CPU that has it.
    pub fn geometry(self) -> Result<Geometry, VtcrError> {
        self.geometry_with(BlockRule::Architecture)
    }

    /// As [`Vtcr::geometry`], with another rule for blocks.
    ///
    /// # Errors
    /// As [`Vtcr::geometry`].
    pub fn geometry_with(self, blocks: BlockRule) -> Result<Geometry, VtcrError> {
        let VtcrFields {
            t0sz,
            sl0,
            ds,
            s2pie,
            s2poe,
            d128,
            ..
        } = self.in_effect().decode();
        let granule = self.granule()?;
        for (set, name) in [(d128, "D128"), (s2pie, "S2PIE"), (s2poe, "S2POE")] {
            if set {
                return Err(VtcrError::Unsupported { name });
            }
        }
        let pa_bits = self.pa_bits()?;
        let ipa_bits = seeded!(ReadT0sz, self.ipa_bits() - 1, self.ipa_bits());
        if ipa_bits > 52 {
            return Err(VtcrError::IpaSize { t0sz, bits: ipa_bits });
        }
        let start_level = Some(seeded!(ReadSl2, self, self.in_effect()).start_level()?);
        Geometry::of_walk(GeometryOptions {
            granule,
            ipa_bits,
            pa_bits,
            start_level,
            lpa2: ds,
            blocks,
        })
        .map_err(|rule| VtcrError::Shape { t0sz, sl0, rule })
    }

    /// Checks every rule: those of [`Vtcr::geometry`], fields that are reserved beside others, HD with HA, RES1, reserved
    /// bits.
    ///
    /// # Errors
    /// [`VtcrError`] names the first rule that failed.
    pub fn validate(self) -> Result<(), VtcrError> {
        let fields = self.decode();
        if fields.ds && self.granule()? == Granule::K64 {
            return Err(VtcrError::DsGranule);
        }
        self.start_level()?;
        self.geometry()?;
        if fields.hd && !fields.ha {
            return Err(VtcrError::DirtyWithoutAccess);
        }
        if !fields.res1 {
            return Err(VtcrError::Res1);
        }
        if fields.res0 != 0 {
            return Err(VtcrError::Res0 { bits: fields.res0 });
        }
        Ok(())
    }

    /// Checks the rules by which KVM's software walker takes a nested guest's VTCR_EL2: narrower than the
    /// architecture's, since it uses the IPA size where the architecture uses the CPU's physical address size.
    ///
    /// # Errors
    /// [`VtcrError`] names the rule that failed.
    pub fn validate_nested(self) -> Result<(), VtcrError> {
        let granule = self.granule()?;
        let level = self.start_level()?;
        let bits = self.ipa_bits();
        let stride = granule.stride();
        let shift = granule.shift() + stride * (3 - level.get()) as u32;
        let smallest = match (granule, level) {
            (Granule::K4, Level::L0) | (Granule::K64, Level::L1) => 43,
            (Granule::K16, Level::L1) => 41,
            (Granule::K4, Level::LM1) | (Granule::K16 | Granule::K64, Level::L0) => u8::MAX,
            _ => 25,
        };
        let min = (shift as u8 + 1).max(smallest);
        let max = (shift + stride + 4).min(48) as u8;
        if (min..=max).contains(&bits) {
            Ok(())
        } else {
            Err(VtcrError::Nested {
                level,
                granule,
                bits,
                min,
                max,
            })
        }
    }
}

#[cfg(test)]
mod tests;
