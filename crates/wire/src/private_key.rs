//! Private keys in the forms that programs write them: PKCS #8, PKCS #1 (RSA, as kubeadm's) and SEC 1
//! (ECDSA, as openssl's and Go's). The library that signs reads the first alone, so the others are
//! wrapped in it.

use rcgen::KeyPair;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;

/// What PKCS #8 says of a key, encoded: its algorithm and curve (RFC 3279, RFC 5480).
const RSA: &[u8] = &[
    0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00,
];
const P256: &[u8] = &[
    0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48,
    0xce, 0x3d, 0x03, 0x01, 0x07,
];
const P384: &[u8] = &[
    0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b, 0x81, 0x04,
    0x00, 0x22,
];

const SEQUENCE: u8 = 0x30;
const OCTET_STRING: u8 = 0x04;
/// The number 0: PKCS #8's first version.
const VERSION: &[u8] = &[0x02, 0x01, 0x00];

/// The first private key of a PEM text.
///
/// # Errors
/// In words: there is none, or one that cannot be used (encrypted, of another curve, damaged).
pub fn key_pair(pem: &str) -> Result<KeyPair, String> {
    let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|e| e.to_string())?;
    let encodings = match &key {
        PrivateKeyDer::Pkcs8(key) => vec![key.secret_pkcs8_der().to_vec()],
        PrivateKeyDer::Pkcs1(key) => vec![wrapped(RSA, key.secret_pkcs1_der())],
        // Such a key need not say its curve: only one of them fits.
        PrivateKeyDer::Sec1(key) => [P256, P384]
            .map(|curve| wrapped(curve, key.secret_sec1_der()))
            .to_vec(),
        _ => return Err("a private key of a form that is not known here".into()),
    };
    let found = encodings
        .into_iter()
        .find_map(|der| KeyPair::try_from(der).ok());
    found.ok_or_else(|| "not a key of RSA, P-256, P-384 or Ed25519".into())
}

/// A key in PKCS #8, with what is said of it.
fn wrapped(algorithm: &[u8], key: &[u8]) -> Vec<u8> {
    let key = element(OCTET_STRING, &[key]);
    element(SEQUENCE, &[VERSION, algorithm, &key])
}

/// An element of DER: its tag, the length of what it holds, and that.
fn element(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let bytes = content.len().to_be_bytes();
    let length = bytes.iter().position(|b| *b != 0);
    let length = length.map_or(&bytes[..0], |first| &bytes[first..]);
    let mut out = vec![tag];
    match length {
        [] => out.push(0),
        [short] if *short < 0x80 => out.push(*short),
        // At most 8 bytes, so the sum cannot overflow.
        long => {
            out.push(0x80 | u8::try_from(long.len()).unwrap_or(8));
            out.extend_from_slice(long);
        }
    }
    out.extend(content);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::{Ca, Pair, Subject, new_key};
    use rcgen::{BasicConstraints, CertificateParams, IsCa, PublicKeyData};

    /// Made by openssl for these tests, as the other one: PKCS #1, below a comment.
    const OF_RSA: &str = "# a key of nobody
-----BEGIN RSA PRIVATE KEY-----
MIIEpAIBAAKCAQEAuR45+RPJ6LIG3torY/auHW6jK6qdypVn8a2i8lrItXBDuNvh
SUvRDaciW1c8LDR+rORTb74aH1kPZLIye+hxha58HSV/lksnJx0Wz9wJ5WRZcVc4
nspE591KvmyyJCcsx6Wjj445nft5igwX22vgGqJfO7R8HfXE/DxIYNRD4/bO+My2
KSV/NErFPKrQtgLHULlsB1u7qkqUavFpTeGkuAFaYPySHXwofsVZ/+zYj5K7uOhr
S8ociGfIRusuKjOgyNKM/8wyMYdnx3ZTn8RaZ/Hud3caIwqMFxYi4LkHiHAkryuw
CI5iFw7ipbCt9qMUXaDFCAsEO23qmFUgkdWd9QIDAQABAoIBAAmiVdSNb9jlKP/g
nVj8vdeIykOrw74HFAuLJJuV13O/5bphcSJaKIVcISjdS6OmUMBpOqFqZJwki61L
K97wfDX/nHR83tzAyQcbV7RWKIqwdAo2xprW/oqNpQXvjL7ebhFu4KoINh3veEYT
toskHFvufuPR0xLRF2EkNwUZDvZ2azrb7B/vGVKXjEs0h6gJkHy4/GylVGcWBZyj
v7S4KKLNolqji4kkDnGA19+SllaJ1DAIZev2kwezzTfOMa4upRpdg+2jSeJinCGc
c+6b8g5rt6bg5kK8160Qp/fGktZZGauPmpit9PGxMB5VEjI5fGW+s91LC8xsILKd
H1SuO9kCgYEA9483IZRDvDlkML+1AGhHh39P+u5Bp3WirDp8qkrA5nKQHbn9z8Fg
dl9ybm1whX0SE7xb5RzYai2v3Z2Cn8oKAMHqtqJGTbjWRplgzOktcSajjdTkBChb
w/xO+AfyRGpHdNdBbCxDxHUZxzW4ZhF73TGna7m4xm8XEQPPTbsecjkCgYEAv24A
T/i/N1wvHLwYobUDBUCN47zIHP5gcCR+s+f8e5+ousiXNIt2TUKiqJcflGsmoJqT
GFRSnULrVidhDTGCVvCMbwT1XnHJgMkp9QrGX0Xwa2+gOqcn0TZRU2HwiqS4wc6z
N8YbsisTicT1G4h7XSIYtuIiMrrM3iP4RUcSGZ0CgYAAz+h3ZLwgJvQMMOTQHod1
i1Zg1V1DxmAFPp/gEyS03NVaM50AjHrbiI6gjB1dYr6nb+vBQan4FzRHftfJ3GjR
/dDeToP6h0u0qZYmtfEfOOg6c+NXnCZI60/7AlOqI8seOAKP70k9oMC35ZY4R4Bn
hl0tPku74utpc+C/OYjtCQKBgQCbi8JtOO4HCbyuWJibLP4bUmz40/i2tmueM8lQ
XfxmZ0EvJLbYV0n1VWPeIY3jh32HmpJTfpDyf+HBy5WspsIF6sfxndHSwBq/rrWN
CwhNegL1CWrkvdY4xS4n1rkhrt8Be/dcJnlyuFXT6FpR2QCEmKQEVpL7LZYyGoAt
qqYmcQKBgQC/8wJczzktuKWHVLNYIvh4ri7J6xaZ4vRtQx7RGu840q6zxkPpILbu
VQI3GQxqIUH+R4e97REhFvg5xfD1x5ihOtKWmkVpVIlgPpsQW+v7mOmBa/4+NjN7
TwITAnKbMkhPy3zZK+LZDpkc2V7SBb6IrFj6t3PcX8P7bLdmJcYZGw==
-----END RSA PRIVATE KEY-----
";
    /// SEC 1, below its parameters.
    const OF_P384: &str = "-----BEGIN EC PARAMETERS-----
BgUrgQQAIg==
-----END EC PARAMETERS-----
-----BEGIN EC PRIVATE KEY-----
MIGkAgEBBDAxBO2LUTneiIuFkHV0Wi+fgmUXSyjc5Ib/PtqtJ03P3PPP32BjP6aC
xLsP6n8V3rOgBwYFK4EEACKhZANiAASe5q4ICwUmDWDwVE5ZBqpGX+6AbPqTLGiw
M7DAkmHeDeWXAHMUY0pWhaXalQnLxEB5YBDRk0TZEVoftGUJQycrO+dpIR6b3yhY
v/Iay4iu7OMi4ShUnC0DDcqAiXLNe78=
-----END EC PRIVATE KEY-----
";

    fn sec1(pem: &str) -> String {
        let der = ::pem::parse(pem).expect("pem").into_contents();
        // PKCS #8 of P-256 ends in an octet string of 109 bytes, which is SEC 1.
        let at = der
            .windows(3)
            .position(|w| w == [OCTET_STRING, 0x6d, SEQUENCE]);
        let inner = der[at.expect("the key") + 2..].to_vec();
        ::pem::encode(&::pem::Pem::new("EC PRIVATE KEY", inner))
    }

    #[test]
    fn keys_are_read_in_each_form() {
        let made = KeyPair::generate().expect("key");
        let pem = made.serialize_pem();
        for form in [pem.clone(), sec1(&pem)] {
            let read = key_pair(&form).expect("key");
            assert_eq!(read.der_bytes(), made.der_bytes());
        }
        let rsa = key_pair(OF_RSA).expect("key");
        assert_eq!(rsa.algorithm(), &rcgen::PKCS_RSA_SHA256);
        let ec = key_pair(OF_P384).expect("key");
        assert_eq!(ec.algorithm(), &rcgen::PKCS_ECDSA_P384_SHA384);
    }

    #[test]
    fn an_authority_signs_with_an_rsa_key() {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key_pair(OF_RSA).expect("key"));
        let pair = Pair {
            cert_pem: certificate.expect("certificate").pem(),
            key_pem: OF_RSA.to_owned(),
        };
        let ca = Ca::of(pair.clone()).expect("an authority");
        let issued = ca.issue(&Subject::client("jane", &[]), 1_790_000_000, 1);
        assert!(issued.expect("a certificate").belongs_together());
        let key_pem = new_key().expect("key");
        assert!(Ca::of(Pair { key_pem, ..pair }).is_err());
    }

    #[test]
    fn what_is_no_key_is_refused() {
        assert!(key_pair("garbage").is_err());
        let certificate = ::pem::encode(&::pem::Pem::new("CERTIFICATE", vec![0x30, 0x00]));
        assert!(key_pair(&certificate).is_err());
        let of = |tag: &str, der: Vec<u8>| key_pair(&::pem::encode(&::pem::Pem::new(tag, der)));
        for tag in ["RSA PRIVATE KEY", "EC PRIVATE KEY", "PRIVATE KEY"] {
            let why = of(tag, vec![0x30, 0x03, 0x02, 0x01, 0x01]).expect_err("no key");
            assert!(why.contains("not a key of"), "{tag}: {why}");
        }
        assert!(of("ENCRYPTED PRIVATE KEY", vec![0x30, 0x00]).is_err());
    }

    #[test]
    fn lengths_are_written_as_they_are_read() {
        assert_eq!(element(SEQUENCE, &[]), [SEQUENCE, 0]);
        assert_eq!(
            element(OCTET_STRING, &[&[7; 3]]),
            [OCTET_STRING, 3, 7, 7, 7]
        );
        assert_eq!(
            element(OCTET_STRING, &[&[7; 0x80]])[..3],
            [OCTET_STRING, 0x81, 0x80]
        );
        let long = element(OCTET_STRING, &[&[7; 0x100], &[8; 4]]);
        assert_eq!(long[..4], [OCTET_STRING, 0x82, 0x01, 0x04]);
        assert_eq!(long.len(), 4 + 0x104);
    }
}
