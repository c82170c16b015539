//! The deterministic content of the file the wire serves, and its SHA-256.

use sha2::{Digest as _, Sha256};

/// Size of the served file in bytes: 64 MiB.
pub const FILE_BYTES: u64 = 64 << 20;

/// Writes the bytes `offset..offset + to.len()` of the file into `to`.
///
/// Every 8 bytes differ from all others, so that a lost, repeated or misplaced piece changes the hash.
pub fn fill(offset: u64, to: &mut [u8]) {
    let mut at = offset;
    let mut rest = to;
    while !rest.is_empty() {
        let word = mix(at >> 3).to_le_bytes();
        let skip = usize::try_from(at & 7).unwrap_or(0);
        let piece = word.get(skip..).unwrap_or_default();
        let length = piece.len().min(rest.len());
        let (now, later) = rest.split_at_mut(length);
        now.copy_from_slice(piece.get(..length).unwrap_or_default());
        rest = later;
        at = at.saturating_add(u64::try_from(length).unwrap_or(u64::MAX));
    }
}

/// The SHA-256 of the first `bytes` bytes of the file, in hexadecimal.
#[must_use]
pub fn sha256(bytes: u64) -> String {
    let mut hash = Sha256::new();
    let mut buffer = [0_u8; 1 << 16];
    let mut offset = 0;
    while offset < bytes {
        let length = usize::try_from(bytes.saturating_sub(offset)).unwrap_or(usize::MAX).min(buffer.len());
        let piece = buffer.get_mut(..length).unwrap_or_default();
        fill(offset, piece);
        hash.update(&*piece);
        offset = offset.saturating_add(u64::try_from(length).unwrap_or(u64::MAX));
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Steele and others' SplitMix64 output function: a bijection, so words never repeat.
fn mix(index: u64) -> u64 {
    let z = index.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_any_size_make_the_same_file() {
        let mut whole = [0; 1000];
        fill(0, &mut whole);
        for size in [1, 3, 7, 8, 13, 999] {
            let mut pieces = [0; 1000];
            for (index, piece) in pieces.chunks_mut(size).enumerate() {
                fill((index * size) as u64, piece);
            }
            assert_eq!(whole, pieces, "pieces of {size}");
        }
    }

    #[test]
    fn hash_depends_on_the_length() {
        assert_ne!(sha256(99_999), sha256(100_000));
    }
}
