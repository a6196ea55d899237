//! A VM with everything it needs, in one call.

use super::{Backing, Cost, Policy, Vm, VmConfig};
use crate::arch::{Geometry, GeometryError, GeometryOptions, Granule, Pa};
use crate::memory::{Arena, ArenaError, ArenaOptions};
use crate::table::{self, Config, Semantics, Stage2, Tlb};

/// Options for a [`Vm`] with an [`Arena`] of its own.
///
/// ```
/// use s2pt::vm::{VmOptions, Policy};
///
/// let vm = VmOptions { policy: Policy::Parallel, ..VmOptions::default() }.build(s2pt::table::Null)?;
/// assert!(vm.slots().is_empty());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct VmOptions {
    /// Shape of the table.
    pub geometry: GeometryOptions,
    /// How faults and changes exclude one another.
    pub policy: Policy,
    /// Page size with which the host backs guest memory.
    pub backing: Backing,
    /// See [`VmConfig::execute_eagerly`].
    pub execute_eagerly: bool,
    /// See [`VmConfig::dirty_ring`].
    pub dirty_ring: u32,
    /// See [`VmConfig::exit_cost`].
    pub exit_cost: Cost,
    /// Hardware sets the access flag (VTCR_EL2.HA): an access to a leaf that was aged does not fault. Implied by `hd`.
    pub ha: bool,
    /// Hardware notes writes (VTCR_EL2.HD), as [`DirtyTracking::Hardware`](super::DirtyTracking::Hardware) needs it.
    pub hd: bool,
    /// FEAT_S2FWB.
    pub fwb: bool,
    /// Whose habits table and fault handler have. KVM's come with KVM's block levels.
    pub semantics: Semantics,
    /// Address of the first table frame; `None`: in the top sixteenth of the PA space, out of the way of guest memory.
    pub table_base: Option<Pa>,
    /// Guest memory in bytes, all slots together: there are frames enough to map that much in pages, with as many again
    /// for what is being freed.
    pub memory: u64,
}

impl Default for VmOptions {
    /// 4K granule, 40-bit IPA, table frames for 64 GiB of guest memory (they take memory only when used).
    fn default() -> Self {
        Self {
            geometry: GeometryOptions::default(),
            policy: Policy::default(),
            backing: Backing::default(),
            execute_eagerly: false,
            dirty_ring: 0,
            exit_cost: Cost::None,
            ha: true,
            hd: false,
            fwb: false,
            semantics: Semantics::Exact,
            table_base: None,
            memory: 64 << 30,
        }
    }
}

/// Why a [`Vm`] cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The table's shape does not exist.
    #[error(transparent)]
    Geometry(#[from] GeometryError),
    /// No memory for the frames.
    #[error(transparent)]
    Arena(#[from] ArenaError),
    /// No frames for the root.
    #[error(transparent)]
    Table(#[from] table::Error),
}

impl VmOptions {
    /// Builds it, with its maintenance going to `tlb`.
    ///
    /// # Errors
    /// [`BuildError`].
    pub fn build<T: Tlb>(&self, tlb: T) -> Result<Vm<Arena, T>, BuildError> {
        let geometry = Geometry::new(self.geometry)?;
        let arena = Arena::new(ArenaOptions {
            base: self.table_base.unwrap_or(Pa::new(geometry.pa_limit() / 16 * 15)),
            granule: geometry.granule(),
            capacity_frames: frames(geometry.granule(), self.memory.min(geometry.pa_limit())),
            quota: None,
        })?;
        let config = Config {
            fwb: self.fwb,
            ha: self.ha || self.hd,
            hd: self.hd,
            ..if self.semantics.is_kvm() {
                Config::kvm(geometry)
            } else {
                Config::new(geometry)
            }
        };
        let stage2 = Stage2::new(config, arena, tlb)?;
        let vm = VmConfig {
            policy: self.policy,
            backing: self.backing,
            execute_eagerly: self.execute_eagerly,
            dirty_ring: self.dirty_ring,
            exit_cost: self.exit_cost,
        };
        Ok(Vm::new(stage2, vm))
    }
}

/// Frames for `memory` bytes in pages, twice.
fn frames(granule: Granule, memory: u64) -> usize {
    let last_level = memory.div_ceil(granule.size() << granule.stride());
    // Upper levels add less than one in 512; the constant covers a few slots far apart, and small machines.
    usize::try_from(2 * (last_level + last_level / 256) + 256)
        .unwrap_or(usize::MAX)
        .min(1 << 29)
}
