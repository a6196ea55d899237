//! Guest and host physical addresses as two types that cannot be mixed up.

use core::fmt;

macro_rules! address {
    ($(#[$doc:meta])* $name:ident, $text:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(transparent)]
        pub struct $name(u64);

        impl $name {
            /// Wraps an address; any value is allowed, limits belong to [`Geometry`](super::Geometry).
            #[inline]
            pub const fn new(address: u64) -> Self {
                Self(address)
            }

            /// The address in bytes.
            #[inline]
            pub const fn get(self) -> u64 {
                self.0
            }

            /// Whether the address is a multiple of `size_bytes`, which must be a power of two.
            #[inline]
            pub const fn is_aligned(self, size_bytes: u64) -> bool {
                debug_assert!(size_bytes.is_power_of_two());
                self.0 & (size_bytes - 1) == 0
            }

            /// The highest multiple of `size_bytes` (a power of two) that is not above the address.
            #[inline]
            pub const fn align_down(self, size_bytes: u64) -> Self {
                debug_assert!(size_bytes.is_power_of_two());
                Self(self.0 & !(size_bytes - 1))
            }

            /// The address `bytes` further up, `None` on overflow of 64 bits.
            #[inline]
            pub const fn checked_add(self, bytes: u64) -> Option<Self> {
                match self.0.checked_add(bytes) {
                    Some(sum) => Some(Self(sum)),
                    None => None,
                }
            }

            /// Bytes from `base` up to this address. `base` must not be above it (checked in debug builds).
            #[inline]
            pub const fn offset_from(self, base: Self) -> u64 {
                debug_assert!(self.0 >= base.0);
                self.0.wrapping_sub(base.0)
            }
        }

        impl core::ops::Add<u64> for $name {
            type Output = Self;

            /// The address `bytes` further up; as integers do, it panics on overflow in debug builds.
            /// Use `checked_add` for sums of values that came from outside.
            #[inline]
            fn add(self, bytes: u64) -> Self {
                Self(self.0 + bytes)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($text, "({:#x})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }

        impl fmt::LowerHex for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::LowerHex::fmt(&self.0, f)
            }
        }
    };
}

address! {
    /// An intermediate physical address: what the guest takes for physical, the input of stage 2.
    ///
    /// ```
    /// use s2pt::arch::Ipa;
    /// let ipa = Ipa::new(0x8000_1234);
    /// assert_eq!(ipa.align_down(4096), Ipa::new(0x8000_1000));
    /// assert_eq!(ipa.offset_from(Ipa::new(0x8000_0000)), 0x1234);
    /// assert_eq!(ipa.to_string(), "0x80001234");
    /// assert_eq!(format!("{ipa:?}"), "Ipa(0x80001234)");
    /// assert_eq!(Ipa::new(u64::MAX).checked_add(1), None);
    /// ```
    Ipa, "Ipa"
}

address! {
    /// A physical address: the output of stage 2, and where table frames live.
    ///
    /// ```
    /// use s2pt::arch::Pa;
    /// let pa = Pa::new(0x4020_0000);
    /// assert!(pa.is_aligned(2 << 20) && !pa.is_aligned(1 << 30));
    /// assert_eq!(pa + 0x1000, Pa::new(0x4020_1000));
    /// assert_eq!(format!("{pa:?} {pa}"), "Pa(0x40200000) 0x40200000");
    /// ```
    Pa, "Pa"
}
