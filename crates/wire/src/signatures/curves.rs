//! ECDSA on the curves of NIST, to verify alone (SEC 1, 4.1.4; points in Jacobian coordinates). It is
//! slow beside ring, some milliseconds a signature, and not for secrets.

use x509_parser::num_bigint::BigUint;

/// A curve y² = x³ - 3x + b over a field of prime order, by SEC 2.
struct Parameters {
    id: &'static str,
    name: &'static str,
    /// Bytes of a coordinate.
    bytes: usize,
    prime: &'static str,
    b: &'static str,
    order: &'static str,
    x: &'static str,
    y: &'static str,
}

const CURVES: [Parameters; 4] = [
    Parameters {
        id: "1.3.132.0.33",
        name: "P-224",
        bytes: 28,
        prime: "ffffffffffffffffffffffffffffffff000000000000000000000001",
        b: "b4050a850c04b3abf54132565044b0b7d7bfd8ba270b39432355ffb4",
        order: "ffffffffffffffffffffffffffff16a2e0b8f03e13dd29455c5c2a3d",
        x: "b70e0cbd6bb4bf7f321390b94a03c1d356c21122343280d6115c1d21",
        y: "bd376388b5f723fb4c22dfe6cd4375a05a07476444d5819985007e34",
    },
    Parameters {
        id: "1.2.840.10045.3.1.7",
        name: "P-256",
        bytes: 32,
        prime: "ffffffff00000001000000000000000000000000ffffffffffffffffffffffff",
        b: "5ac635d8aa3a93e7b3ebbd55769886bc651d06b0cc53b0f63bce3c3e27d2604b",
        order: "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551",
        x: "6b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296",
        y: "4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5",
    },
    Parameters {
        id: "1.3.132.0.34",
        name: "P-384",
        bytes: 48,
        prime: "fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffeffffffff0000000000000000ffffffff",
        b: "b3312fa7e23ee7e4988e056be3f82d19181d9c6efe8141120314088f5013875ac656398d8a2ed19d2a85c8edd3ec2aef",
        order: "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973",
        x: "aa87ca22be8b05378eb1c71ef320ad746e1d3b628ba79b9859f741e082542a385502f25dbf55296c3a545e3872760ab7",
        y: "3617de4a96262c6f5d9e98bf9292dc29f8f41dbd289a147ce9da3113b5f0b8c00a60b1ce1d7e819d7a431d7c90ea0e5f",
    },
    Parameters {
        id: "1.3.132.0.35",
        name: "P-521",
        bytes: 66,
        prime: "01ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
        b: "0051953eb9618e1c9a1f929a21a0b68540eea2da725b99b315f3b8b489918ef109e156193951ec7e937b1652c0bd3bb1bf073573df883d2c34f1ef451fd46b503f00",
        order: "01fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffa51868783bf2f966b7fcc0148f709a5d03bb5c9b8899c47aebb6fb71e91386409",
        x: "00c6858e06b70404e9cd9e3ecb662395b4429c648139053fb521f828af606b4d3dbaa14b5e77efe75928fe1dc127a2ffa8de3348b3c1856a429bf97e7e31c2e5bd66",
        y: "011839296a789a3bc0045c8a5fb42c7d1bd998f54449579b446817afbd17273e662c97ee72995ef42640c550b9013fad0761353c7086a272c24088be94769fd16650",
    },
];

/// A curve that is computed with.
pub struct Curve {
    name: &'static str,
    bytes: usize,
    prime: BigUint,
    b: BigUint,
    order: BigUint,
    base: Point,
}

/// x = X / Z², y = Y / Z³; where Z is zero it is the point at infinity.
#[derive(Clone)]
struct Point {
    x: BigUint,
    y: BigUint,
    z: BigUint,
}

fn number(hexadecimal: &str) -> BigUint {
    BigUint::parse_bytes(hexadecimal.as_bytes(), 16).unwrap_or_default()
}

fn small(n: u32) -> BigUint {
    BigUint::from(n)
}

fn is_zero(n: &BigUint) -> bool {
    n.bits() == 0
}

impl Point {
    fn new(x: BigUint, y: BigUint) -> Self {
        Self { x, y, z: small(1) }
    }

    fn infinity() -> Self {
        Self {
            x: small(1),
            y: small(1),
            z: small(0),
        }
    }
}

impl Curve {
    /// By its object identifier.
    pub fn named(id: &str) -> Option<Self> {
        let known = CURVES.iter().find(|c| c.id == id)?;
        Some(Self {
            name: known.name,
            bytes: known.bytes,
            prime: number(known.prime),
            b: number(known.b),
            order: number(known.order),
            base: Point::new(number(known.x), number(known.y)),
        })
    }

    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Whether a key (an uncompressed point) has made this signature (DER) of a hash.
    pub fn verifies(&self, key: &[u8], hash: &[u8], signature: &[u8]) -> bool {
        pair(signature).is_some_and(|(r, s)| self.fits(key, hash, &r, &s))
    }

    /// The same of a signature of two numbers side by side, each as long as a coordinate.
    pub fn verifies_fixed(&self, key: &[u8], hash: &[u8], signature: &[u8]) -> bool {
        let halves = signature.split_at_checked(self.bytes);
        halves.is_some_and(|(r, s)| {
            let (first, second) = (BigUint::from_bytes_be(r), BigUint::from_bytes_be(s));
            s.len() == self.bytes && self.fits(key, hash, &first, &second)
        })
    }

    fn fits(&self, key: &[u8], hash: &[u8], r: &BigUint, s: &BigUint) -> bool {
        let Some(key) = self.point(key) else {
            return false;
        };
        let in_range = |n: &BigUint| !is_zero(n) && *n < self.order;
        if !in_range(r) || !in_range(s) {
            return false;
        }
        let Some(inverse) = s.modinv(&self.order) else {
            return false;
        };
        let of_base = self.truncated(hash) * &inverse % &self.order;
        let of_key = r * &inverse % &self.order;
        let sum = self.combination(&of_base, &of_key, &key);
        let Some(inverse) = sum.z.modinv(&self.prime) else {
            return false;
        };
        let x = sum.x * &inverse % &self.prime * &inverse % &self.prime;
        x % &self.order == *r
    }

    /// As much of a hash as fits the order.
    fn truncated(&self, hash: &[u8]) -> BigUint {
        let bits = self.order.bits();
        let most = usize::try_from(bits.div_ceil(8)).unwrap_or(hash.len());
        let taken = hash.get(..most).unwrap_or(hash);
        let excess = (taken.len() as u64 * 8).saturating_sub(bits);
        BigUint::from_bytes_be(taken) >> excess
    }

    /// A point of the curve from its bytes.
    fn point(&self, bytes: &[u8]) -> Option<Point> {
        let (4, rest) = bytes.split_first().map(|(first, rest)| (*first, rest))? else {
            return None;
        };
        if rest.len() != 2 * self.bytes {
            return None;
        }
        let (x, y) = rest.split_at_checked(self.bytes)?;
        let (x, y) = (BigUint::from_bytes_be(x), BigUint::from_bytes_be(y));
        if x >= self.prime || y >= self.prime {
            return None;
        }
        let cube = self.mul(&self.mul(&x, &x), &x);
        let right = self.sub(&(cube + &self.b), &(small(3) * &x));
        (self.mul(&y, &y) == right).then(|| Point::new(x, y))
    }

    /// `a` times the base and `b` times a point.
    fn combination(&self, a: &BigUint, b: &BigUint, point: &Point) -> Point {
        let both = self.add(&self.base, point);
        let mut sum = Point::infinity();
        for bit in (0..a.bits().max(b.bits())).rev() {
            sum = self.double(&sum);
            sum = match (a.bit(bit), b.bit(bit)) {
                (true, true) => self.add(&sum, &both),
                (true, false) => self.add(&sum, &self.base),
                (false, true) => self.add(&sum, point),
                (false, false) => sum,
            };
        }
        sum
    }

    fn mul(&self, a: &BigUint, b: &BigUint) -> BigUint {
        a * b % &self.prime
    }

    /// The difference of any two numbers, in the field.
    fn sub(&self, a: &BigUint, b: &BigUint) -> BigUint {
        let negative = &self.prime - b % &self.prime;
        (a + negative) % &self.prime
    }

    fn double(&self, p: &Point) -> Point {
        let delta = self.mul(&p.z, &p.z);
        let gamma = self.mul(&p.y, &p.y);
        let beta = self.mul(&p.x, &gamma);
        let product = self.mul(&self.sub(&p.x, &delta), &(&p.x + &delta));
        let alpha = small(3) * product % &self.prime;
        let x = self.sub(&self.mul(&alpha, &alpha), &(small(8) * &beta));
        let sum = &p.y + &p.z;
        let z = self.sub(&self.mul(&sum, &sum), &(&gamma + &delta));
        let rest = self.sub(&(small(4) * &beta), &x);
        let square = self.mul(&gamma, &gamma);
        let y = self.sub(&self.mul(&alpha, &rest), &(small(8) * square));
        Point { x, y, z }
    }

    fn add(&self, p: &Point, q: &Point) -> Point {
        if is_zero(&p.z) {
            return q.clone();
        }
        if is_zero(&q.z) {
            return p.clone();
        }
        let (p_square, q_square) = (self.mul(&p.z, &p.z), self.mul(&q.z, &q.z));
        let (p_x, q_x) = (self.mul(&p.x, &q_square), self.mul(&q.x, &p_square));
        let p_y = self.mul(&self.mul(&p.y, &q.z), &q_square);
        let q_y = self.mul(&self.mul(&q.y, &p.z), &p_square);
        let (h, r) = (self.sub(&q_x, &p_x), self.sub(&q_y, &p_y));
        if is_zero(&h) {
            return if is_zero(&r) {
                self.double(p)
            } else {
                Point::infinity()
            };
        }
        let square = self.mul(&h, &h);
        let cube = self.mul(&h, &square);
        let v = self.mul(&p_x, &square);
        let x = self.sub(&self.mul(&r, &r), &(&cube + small(2) * &v));
        let moved = self.mul(&r, &self.sub(&v, &x));
        let y = self.sub(&moved, &self.mul(&p_y, &cube));
        let z = self.mul(&self.mul(&h, &p.z), &q.z);
        Point { x, y, z }
    }
}

/// The two numbers of a signature, in the one form that DER has for them.
fn pair(signature: &[u8]) -> Option<(BigUint, BigUint)> {
    const SEQUENCE: u8 = 0x30;
    const INTEGER: u8 = 0x02;
    let (inside, rest) = element(SEQUENCE, signature)?;
    let (r, after) = element(INTEGER, inside)?;
    let (s, end) = element(INTEGER, after)?;
    let whole = rest.is_empty() && end.is_empty();
    whole.then_some((positive(r)?, positive(s)?))
}

/// What an element of this tag holds, and what follows it. It is shorter than 256 bytes.
fn element(tag: u8, bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (found, rest) = bytes.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match *first {
        short @ 0..=0x7f => (short, rest),
        0x81 => {
            let (long, rest) = rest.split_first()?;
            (Some(*long).filter(|n| *n >= 0x80)?, rest)
        }
        _ => return None,
    };
    let parts = rest.split_at_checked(usize::from(length))?;
    (*found == tag).then_some(parts)
}

fn positive(bytes: &[u8]) -> Option<BigUint> {
    match bytes {
        [0, second, ..] if *second < 0x80 => None,
        [first, ..] if *first < 0x80 => Some(BigUint::from_bytes_be(bytes)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bases_are_on_their_curves_and_have_their_order() {
        for known in &CURVES {
            let curve = Curve::named(known.id).expect(known.name);
            let coordinate = |n: &BigUint| {
                let bytes = n.to_bytes_be();
                let mut all = vec![0; known.bytes - bytes.len()];
                all.extend(bytes);
                all
            };
            let mut bytes = vec![4];
            bytes.extend(coordinate(&curve.base.x));
            bytes.extend(coordinate(&curve.base.y));
            assert!(curve.point(&bytes).is_some(), "{}", known.name);
            let none = curve.combination(&curve.order, &small(0), &curve.base);
            assert!(is_zero(&none.z), "{}", known.name);
            // Twice the base by one way and by another.
            let twice = curve.combination(&small(1), &small(1), &curve.base);
            let other = curve.combination(&small(2), &small(0), &curve.base);
            let x = |p: &Point| {
                let inverse = p.z.modinv(&curve.prime).expect("no infinity");
                curve.mul(&p.x, &curve.mul(&inverse, &inverse))
            };
            assert_eq!(x(&twice), x(&other), "{}", known.name);
            if let Some(last) = bytes.last_mut() {
                *last ^= 1;
            }
            assert!(curve.point(&bytes).is_none(), "{}", known.name);
        }
        assert!(Curve::named("1.2.3").is_none());
    }

    #[test]
    fn signatures_have_one_form() {
        let good = [0x30, 6, 2, 1, 5, 2, 1, 7];
        assert_eq!(pair(&good), Some((small(5), small(7))));
        for bad in [
            &[][..],
            &[0x30],
            &[0x31, 6, 2, 1, 5, 2, 1, 7],
            &[0x30, 6, 2, 1, 5, 2, 1, 7, 0],
            &[0x30, 7, 2, 1, 5, 2, 1, 7, 0],
            &[0x30, 0x81, 6, 2, 1, 5, 2, 1, 7],
            &[0x30, 0x80, 2, 1, 5, 2, 1, 7],
            &[0x30, 6, 2, 1, 0x85, 2, 1, 7],
            &[0x30, 7, 2, 2, 0, 5, 2, 1, 7],
            &[0x30, 5, 2, 0, 2, 1, 7],
            &[0x30, 3, 2, 1, 5],
        ] {
            assert_eq!(pair(bad), None, "{bad:?}");
        }
    }
}
