//! Wrong lines that a test switches on, one at a time, to see whether anybody notices.
//!
//! There are two catalogues of one make. `seeded!(Name, wrong, right)` is an error of arithmetic, which an MMU of others
//! must contradict (`arithmetic.rs`; `--cfg s2pt_faults`, run by `tests/mmu_faults.py`). `mutated!(Name, wrong, right)` is a
//! step of the protocol that is left out or weakened, which a model, a machine or a test must catch (`protocol.rs`;
//! `--cfg s2pt_mutations`, run by `tests/protocol_mutations.py`).
//!
//! Either macro is `right`, and nothing else is compiled. Only a build with its cfg has both sides, and takes the wrong one
//! where the environment variable, `S2PT_FAULT` or `S2PT_MUTATION`, names it. The variable is read once, with the primitives
//! of std under the model checkers too, so that one build serves a whole catalogue and no model gets a step more. No layer:
//! every module may have a line that can be wrong.

#[cfg(not(s2pt_faults))]
macro_rules! seeded {
    ($name:ident, $wrong:expr, $right:expr) => {
        $right
    };
}

#[cfg(s2pt_faults)]
macro_rules! seeded {
    ($name:ident, $wrong:expr, $right:expr) => {
        if $crate::faults::Seeded::$name.armed() {
            $wrong
        } else {
            $right
        }
    };
}

/// One step that goes wrong in one or several mutations. Without `right` it is a step that only a mutation takes.
#[cfg(not(s2pt_mutations))]
macro_rules! mutated {
    ($($name:ident)|+, $wrong:expr, $right:expr) => {
        $right
    };
    ($($name:ident)|+, $wrong:expr) => {};
}

#[cfg(s2pt_mutations)]
macro_rules! mutated {
    ($($name:ident)|+, $wrong:expr, $right:expr) => {
        if $($crate::faults::Mutated::$name.armed())||+ {
            $wrong
        } else {
            $right
        }
    };
    ($($name:ident)|+, $wrong:expr) => {
        if $($crate::faults::Mutated::$name.armed())||+ {
            $wrong
        }
    };
}

/// Declares an enumeration of wrong lines, each with what is wrong, and the environment variable that names one.
#[cfg(any(s2pt_faults, s2pt_mutations))]
macro_rules! catalogue {
    ($kind:ident, $variable:literal; $($name:ident: $what:literal,)*) => {
        /// A wrong line that can be switched on.
        #[derive(Clone, Copy, PartialEq, Eq)]
        pub enum $kind {
            $($name,)*
        }

        impl $kind {
            const ALL: &[Self] = &[$(Self::$name,)*];

            /// Names, with what is wrong, in order of the enumeration.
            pub const NAMES: &[(&str, &str)] = &[$((stringify!($name), $what),)*];

            /// Whether this is the one that the environment names.
            ///
            /// # Panics
            /// If it names one that does not exist.
            pub fn armed(self) -> bool {
                static CHOSEN: $crate::sync::OnceLock<Option<$kind>> = $crate::sync::OnceLock::new();
                let chosen = CHOSEN.get_or_init(|| {
                    let name = std::env::var($variable).ok().filter(|name| !name.is_empty())?;
                    let index = Self::NAMES.iter().position(|(known, _)| *known == name);
                    Some(Self::ALL[index.unwrap_or_else(|| panic!("there is no wrong line {}={name}", $variable))])
                });
                *chosen == Some(self)
            }
        }
    };
}

#[cfg(s2pt_faults)]
mod arithmetic;
#[cfg(s2pt_mutations)]
mod protocol;

#[cfg(s2pt_faults)]
pub(crate) use arithmetic::Seeded;
#[cfg(s2pt_mutations)]
pub(crate) use protocol::Mutated;
