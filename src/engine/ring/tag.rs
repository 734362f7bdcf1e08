//! What an operation carries through the kernel: kind 8 bits, role 8, generation 24, slot 24.

use crate::engine::{OpKind, Owner, Role};
use crate::slots::Key;

/// Operations that no owner sees, in the numbers above those of [`OpKind`].
pub(super) const WAKE: u8 = 6;
pub(super) const CLOSE: u8 = 7;
pub(super) const CANCEL_ALL: u8 = 8;
pub(super) const RECALL: u8 = 9;
/// This bit on the kind of an operation marks the cancel of that operation.
pub(super) const CANCEL: u8 = 0x80;

/// The tag of an operation.
#[inline]
pub(super) const fn write(kind: u8, owner: Owner) -> u64 {
    (kind as u64) << 56 | (owner.role.0 as u64) << 48 | (owner.key.generation() as u64) << 24 | owner.key.index() as u64
}

/// The kind and the owner in a tag.
#[inline]
pub(super) const fn read(tag: u64) -> (u8, Owner) {
    let key = Key::new(tag as u32 & 0xff_ffff, (tag >> 24) as u32 & 0xff_ffff);
    ((tag >> 56) as u8, Owner { key, role: Role((tag >> 48) as u8) })
}

/// The kind with this number.
#[inline]
pub(super) const fn kind(number: u8) -> Option<OpKind> {
    Some(match number {
        1 => OpKind::Accept,
        2 => OpKind::Receive,
        3 => OpKind::Send,
        4 => OpKind::Connect,
        5 => OpKind::Watch,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn kinds_keep_their_numbers() {
        for number in 0..=u8::MAX {
            assert!(kind(number).is_none_or(|kind| kind as u8 == number));
        }
        assert_eq!((1..WAKE).filter_map(kind).count(), 5);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(kind: u8, role: u8, index in 0u32..1 << 24, generation in 0u32..1 << 24) {
            let owner = Owner { key: Key::new(index, generation), role: Role(role) };
            prop_assert_eq!(read(write(kind, owner)), (kind, owner));
        }
    }
}
