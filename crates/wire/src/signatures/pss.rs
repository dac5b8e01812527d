//! RSA-PSS over SHA-256, to verify alone (RFC 8017, 8.1.2 and 9.1.2). The salt may have any length:
//! Go signs with the longest that fits, unless it is asked for another, and ring accepts one alone.

use ring::digest::{SHA256, digest};
use x509_parser::num_bigint::BigUint;
use x509_parser::public_key::RSAPublicKey;

const HASH: usize = 32;
/// The longest modulus, and exponent, in bits: more would cost more than anybody has.
const MOST_MODULUS: u64 = 8192;
const MOST_EXPONENT: u64 = 33;

/// Whether a key has made this signature of a hash.
pub fn verifies(key: &RSAPublicKey<'_>, hash: &[u8], signature: &[u8]) -> bool {
    let modulus = BigUint::from_bytes_be(key.modulus);
    let exponent = BigUint::from_bytes_be(key.exponent);
    let bits = modulus.bits();
    let sane = (1024..=MOST_MODULUS).contains(&bits)
        && (2..=MOST_EXPONENT).contains(&exponent.bits())
        && exponent.bit(0);
    let number = BigUint::from_bytes_be(signature);
    let length = usize::try_from(bits.div_ceil(8)).unwrap_or_default();
    if !sane || signature.len() != length || number >= modulus {
        return false;
    }
    let encoded = number.modpow(&exponent, &modulus).to_bytes_be();
    let bits = bits - 1;
    let length = usize::try_from(bits.div_ceil(8)).unwrap_or_default();
    let Some(missing) = length.checked_sub(encoded.len()) else {
        return false;
    };
    let mut message = vec![0; missing];
    message.extend(encoded);
    is_encoding(&mut message, hash, bits).is_some()
}

/// Whether a message of so many bits is an encoding of a hash.
fn is_encoding(message: &mut [u8], hash: &[u8], bits: u64) -> Option<()> {
    let end = message.len().checked_sub(HASH + 1)?;
    let (block, tail) = message.split_at_mut_checked(end)?;
    let (salted, trailer) = tail.split_at_checked(HASH)?;
    if trailer != [0xbc] {
        return None;
    }
    // The bits of the first byte that are beyond the message's.
    let unused = (8 - bits % 8) % 8;
    let kept = 0xff_u8.checked_shr(u32::try_from(unused).ok()?)?;
    if block.first()? & !kept != 0 {
        return None;
    }
    for (byte, mask) in block.iter_mut().zip(mask(salted)) {
        *byte ^= mask;
    }
    *block.first_mut()? &= kept;
    let start = block.iter().position(|byte| *byte != 0)?;
    let (mark, salt) = block.get(start..)?.split_first()?;
    let mut input = vec![0; 8];
    input.extend_from_slice(hash);
    input.extend_from_slice(salt);
    (*mark == 1 && digest(&SHA256, &input).as_ref() == salted).then_some(())
}

/// The mask that a seed makes (MGF1), without an end.
fn mask(seed: &[u8]) -> impl Iterator<Item = u8> + '_ {
    (0_u32..).flat_map(move |count| {
        let input = [seed, &count.to_be_bytes()].concat();
        digest(&SHA256, &input).as_ref().to_vec()
    })
}
