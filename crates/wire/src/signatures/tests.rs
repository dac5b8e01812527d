//! What others have signed: by OpenSSL, of messages and with keys that nobody has any more.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use x509_parser::prelude::FromDer;

use super::*;

/// What the proofs are of.
pub(crate) const MESSAGE: &[u8] = b"uid";
const P521_SHA512: &str = "MIIBUjCBtAIBADAPMQ0wCwYDVQQDDARqYW5lMIGbMBAGByqGSM49AgEGBSuBBAAjA4GGAAQADiVZuUI5OgplcreLR/\
    VEgY3vsoetPPDQ+1PnRujcb5BvBIqpRBNQ3UI92T5oTQVqkq/leNITIR0ov12RtuN7Ve8A9qNB2EZlfAQuGiTWZllN\
    c8h46aVAYjzLL2a+orZtGveQFiutKJg3vm/4si3E0fxZ0SC6TLEkKPe/1BYSmxkzpGSgADAKBggqhkjOPQQDBAOBjA\
    AwgYgCQgGZjoMi3oI372M/V/CaDQHbPAMf+JOPKqP6rytjpHwbccIkjp81VBbB+LyrUpPJxZqEi2JwGVNYZeEYF1GT\
    cg7tBQJCAQaI4sDlXwY+4CjpGGr8taBuxTgYYB1RYKmIgrNtJv/kQk7yo/J5A95sbmenl0IaavF0mA9WPe3+3gDxlt\
    2RiV2Q";
const P521_SHA256: &str = "MIIBUjCBtAIBADAPMQ0wCwYDVQQDDARqYW5lMIGbMBAGByqGSM49AgEGBSuBBAAjA4GGAAQB0qZsQLLdv1eydY3wCZ\
    8FJHk7NWheMVBcjR4s4ZHlmXT775pH/QxU772dYXLUSrnHa8y05/JXJzlB9460eyNUNYgAvuHtUOtphEMC7Qpkbehy\
    8zn0a5mRx2d5xgq8FyVlUHvAI0HgW+Vw0jKiH8hI6ofSzNHIihJo52RSXHMvDKlZsfugADAKBggqhkjOPQQDAgOBjA\
    AwgYgCQgEO8/wakRuyOmxxhRUD3WzZwF1jHuTcoOw6Z+FTm5l6ha72bccHyR8sQPLKUtxXHOOdx4zyfZjuPugIpQS3\
    28XPwgJCAYTanuWA1f5jKs0HGvdK2k+dYBZ2MRcscGPPsmLSJoDocYpVE6W9iIYipqgSvPf8RUIIKjQ7XeUd9dPcm+\
    8cLlJU";
const P224_SHA256: &str = "MIG2MGYCAQAwDzENMAsGA1UEAwwEamFuZTBOMBAGByqGSM49AgEGBSuBBAAhAzoABFfurh5f554xqnSSLuy9s5O1iO\
    aWQfyfCwaev3OBCRWI3uTqRZj36OWuBuyE4UrKP7pvevGu0pwnoAAwCgYIKoZIzj0EAwIDQAAwPQIcXBQ4YCq5M7x8\
    kgJOnrUoNJJLx76AmkO9RBvMSgIdAJ6f01SPma2dLVxZNqUWz0usJTbSie85y4xFi14=";
const P256_SHA512: &str = "MIHIMHECAQAwDzENMAsGA1UEAwwEamFuZTBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABM2bSXcXJ+zXjA2HPs4VWE\
    RfR3PPqB+herB5Boalxu9HpbmDEusZgCTW8O7UFwrGYCloN2CKsZP+P1XnfX44FxegADAKBggqhkjOPQQDBANHADBE\
    AiBf/fnLTAk6fwhDDQfVRXPFtG/IY3qXIN+Iufyds0NqlwIgBzyOIPrktzvVcZZTP17dNhY1A553xOdVDNXDtyc6ng\
    I=";
const P384_SHA512: &str = "MIIBCDCBjgIBADAPMQ0wCwYDVQQDDARqYW5lMHYwEAYHKoZIzj0CAQYFK4EEACIDYgAEXKJ6xa5Kg+MAQ2D+kzAxsH\
    mlM7/aYAOVx9WVQ70h+2ciZIx414lKIJhqtINemoL7M4p+iaHX5YQQfCafLnbiPtNIKi4Cc+blIG0qaH1w3mOPlwBW\
    GzG4l/EemUFhG981oAAwCgYIKoZIzj0EAwQDaQAwZgIxANTmtPEfZdW76BLvry/k3TSqxdoF3hnaMi9wbmS0LRMFCZ\
    TIOJ0SmXdNGUpI4hlM/QIxAP6QFuP+1MWtJmAACADQGXpG9M64VBXeBoDLes9lucOinBQKaHJxE3BEhAP549HXIg==";
const RSA1024_SHA256: &str = "MIIBTjCBuAIBADAPMQ0wCwYDVQQDDARqYW5lMIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDR1GCNtmDuFmRNju\
    vTAIJYVXwnSUrPqpAMskFRNUrryTNKDv7X+BfKk2jtaGbW45W1yvxf/7dFJw61wR7t2w6t0/sWg8olmWgt3VuTkLfK\
    cWtCrbwRPHFxmLcckL3Fm2nnUYUxqxryeGD+N7C+vvUAVWRGY6jL4aEEVoTOudUcCQIDAQABoAAwDQYJKoZIhvcNAQ\
    ELBQADgYEAOZdMenSv/9dgNRzwZJhfelwNDc+zGamwBDD1d0UtEEWdsGhgu075kaMFRp35Xo5yVa74VShr/gel8PjN\
    2P5FAhbM95+ft6RmHFrfK4P+G1KPbctsVLQGcKlQi1NepFrMFxKHqwsVRPzQBrWwLNTKS7GBFY0W3M2xSvgIJm9m6u\
    0=";
const P256_SHA1: &str = "MIHIMHECAQAwDzENMAsGA1UEAwwEamFuZTBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABAtlqAqME9PAIuRO0iVpqt\
    WedFA9jMiRD+rjG3PBbXBj8QL7SixXI/EJ5EyF03PlniHLj/45EOw62b6fRs2jD06gADAJBgcqhkjOPQQBA0gAMEUC\
    IEe9lfIfnvTKErnvbp7tBVG2O9A9WBcoaMrgXIGxgyK+AiEA7JyT+mPczPDKqxqwP60kT+CxB3cwzxOeK36V9aIx9G\
    k=";
const P384_SHA1: &str = "MIIBBTCBjgIBADAPMQ0wCwYDVQQDDARqYW5lMHYwEAYHKoZIzj0CAQYFK4EEACIDYgAEyiZoBbFIWRSzZfL+F5KcHI\
    kQDGBB5CeAf+QD8sHJCTGCu4jAxsFGyJxGsiednFNnuI7wqun9grrbdzTkx5TlOKIqxS5GayYF705HmKb6BGU4037H\
    pxhwQmFyPOGyiNQXoAAwCQYHKoZIzj0EAQNnADBkAjBipgJTOakjWo1FNNsyuyuZ2KBLCJrnWHpO3fs0/TOTckqr+/\
    IqA7erDLY6R3yPdjgCMCqHr3YlaCIX1JSYNtKztDbmQbe6UXUOBMjnD1Vo5u8/eUvAKMGEFzCay3Ko0Psq3Q==";
const RSA1024_SHA384: &str = "MIIBTjCBuAIBADAPMQ0wCwYDVQQDDARqYW5lMIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQC9dVT9C1BlN8jVOR\
    uRP7CEkuFyWv/6nXiHem8KP51DaFt7x+QujlljeDvUop/2Zk+WpKT1gnQYPr7VpeQdx/rWURVrguy8KOA8gO7lguAO\
    3mAj6mRxeZxwD+QYD0IWTJwAhubGm8o6UdLmBu1zk4CBAVblJ22onUef4wAJUYc0XwIDAQABoAAwDQYJKoZIhvcNAQ\
    EMBQADgYEASoP4r6raRlDcznHjGLUd15KDxc6P96whJue7AG91aRYxA4Q3S9rB7PsQH7Vf1R9QK2iiNdRpGD7Wuw22\
    qRbp1WfTg4PHwZe+tEyBrLl8Bhsh/3M9lvH5/3RyrG50oKRAoRoT/ITB5Jk9nD7nAdbU1aA6tCP3VIjmM/GSstC++B\
    k=";
const PSS: &str = "MIICiDCCATwCAQAwDzENMAsGA1UEAwwEamFuZTCCASIwDQYJKoZIhvcNAQEBBQADggEPADCCAQoCggEBAJkLRJQXBb\
    GbY7npYrsKKrvE0uuQvygwOrJurAIV/yb0ddEvHgw/pR5MyFuQ8/OW5etB/3w3+Ly7PEawVvQg34Tia0dchb8Z83dq\
    Bl7/hgySsrqBpqin6+k4MOogBXeFzXKk7S0AlTxwgoBJK/ieCoVnqQnM7vcJWT4aqe3kb0IRFr7LVwNT2kaPNXJx40\
    G2iRY/JfbvyZFYn23xdkeWXJ8125MQTsNXb2a/nuaB+QCHyi0PPRDuXYviOU4qkS17FvwLk4fNvltOU525NxrWosUk\
    +4Xb3dP9ekx9+Kx2H6flXXSg6uOu/SyrY/ZMeKRdnIv3yNBdHxU3g2m/s2Zgf7ECAwEAAaAAMEEGCSqGSIb3DQEBCj\
    A0oA8wDQYJYIZIAWUDBAIBBQChHDAaBgkqhkiG9w0BAQgwDQYJYIZIAWUDBAIBBQCiAwIBIAOCAQEAfrBlXMj7Vjum\
    K4aA8Cfw8MLEgfr3YV3Arg/436NZ0s4U2ztl1xaT+W3R/V2nOo0K0uU1aXVF+H5t2TRrdrpQ9hfkZbAYlrqml/T8UK\
    TGYOSNfjmsI/h/75NMrLGcoBntUYJ0ZT8Ui/LPzUgL7QkE9bPSwyzQySKID/08qzQR6g6JeDad7xOEE8xlXbrKFW/N\
    E3Z7dEMLJ7koY8NpM9hC18dFKPh1/wvXzD5bD+lZTrU1Q6uC0YC7TqEZ0H4gHNCjJp4czhb1m/x2xYv0VFb+P0OjAU\
    IfZs+d7XzultYvdct0cfxaj/3m8FuQk8Znwdkh9l44N2cZWPNkw01j8gnYsQ==";
const PSS_LONGEST_SALT: &str = "MIICiTCCATwCAQAwDzENMAsGA1UEAwwEamFuZTCCASIwDQYJKoZIhvcNAQEBBQADggEPADCCAQoCggEBAJkLRJQXBb\
    GbY7npYrsKKrvE0uuQvygwOrJurAIV/yb0ddEvHgw/pR5MyFuQ8/OW5etB/3w3+Ly7PEawVvQg34Tia0dchb8Z83dq\
    Bl7/hgySsrqBpqin6+k4MOogBXeFzXKk7S0AlTxwgoBJK/ieCoVnqQnM7vcJWT4aqe3kb0IRFr7LVwNT2kaPNXJx40\
    G2iRY/JfbvyZFYn23xdkeWXJ8125MQTsNXb2a/nuaB+QCHyi0PPRDuXYviOU4qkS17FvwLk4fNvltOU525NxrWosUk\
    +4Xb3dP9ekx9+Kx2H6flXXSg6uOu/SyrY/ZMeKRdnIv3yNBdHxU3g2m/s2Zgf7ECAwEAAaAAMEIGCSqGSIb3DQEBCj\
    A1oA8wDQYJYIZIAWUDBAIBBQChHDAaBgkqhkiG9w0BAQgwDQYJYIZIAWUDBAIBBQCiBAICAN4DggEBAFGmydgddPVM\
    WW9AA78wroZXyAEEM88bfOTQAHogMHSlop+IMYIYPDrDFcq5UCzt/uoFdjcuFuGR3XnVSatZCE6ncZa3VnfPRQgJ2H\
    prTiVlkY77p/v4y5jxN7gndVEQuxWHCfJ2Wa7+VQiYBvm1DFqgJJR+zjB4bPbbojS2DjqAp9b4ylj1RWuKT3Gez27Q\
    DBBV8Krg86p8kU8XwXE7zvZnMaRE6mk6591I+xb8G5ZO0JQqn0wXV5h5tegVbbyG6eeiHnHtR4y9735HHLFmXEo7xq\
    GeefuikQhWdvz4cBYY6UJiwx8amKDrgUJ29BnXbD2Iw4z7HoagNhz8Un9wkNg=";
const P256_SHA384: &str = "MIHKMHECAQAwDzENMAsGA1UEAwwEamFuZTBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABAtlqAqME9PAIuRO0iVpqt\
    WedFA9jMiRD+rjG3PBbXBj8QL7SixXI/EJ5EyF03PlniHLj/45EOw62b6fRs2jD06gADAKBggqhkjOPQQDAwNJADBG\
    AiEAq5A6w0p9tRpabo4WX44k+ekt7OMG2xRsVPfgI/dI5E8CIQChgsDM4+70dUn9q6PUgvngm3yiHzbztBH4G7qGUK\
    HLeQ==";
const P384_SHA256: &str = "MIIBCDCBjgIBADAPMQ0wCwYDVQQDDARqYW5lMHYwEAYHKoZIzj0CAQYFK4EEACIDYgAEyiZoBbFIWRSzZfL+F5KcHI\
    kQDGBB5CeAf+QD8sHJCTGCu4jAxsFGyJxGsiednFNnuI7wqun9grrbdzTkx5TlOKIqxS5GayYF705HmKb6BGU4037H\
    pxhwQmFyPOGyiNQXoAAwCgYIKoZIzj0EAwIDaQAwZgIxAJQqZQ45aDyi7PoM2q8UI63kyPSkxVCsRGM8Jda/uSA+uE\
    YWg3nU3SpqI0+C9kHlnwIxAN9Q7QFjvcC2PiogX8A3+xJp7Du7lgnfXkaRAGJAgOBtAA268kSiCa5rXp4ygDCHeg==";
/// Keys, and what they have signed.
const P521_KEY: &str = "MIGbMBAGByqGSM49AgEGBSuBBAAjA4GGAAQAM9kUnjZVeq+m3KtlNGW16Myko+ii13Y1O1HYsQKVifeUgWGrKk8tTR\
    UqFQbxTP2qcwQBV58kQnWMwa6yx2gssCoBEITpKn6y5yeAbTchOlWM5vzYwazTZyoK6/iUxqMwXquA25JMn8zW478E\
    0Bis0LFRRBIxrde1Ar3kUdLcKC/cS3U=";
const P521_PROOF: &str = "MIGIAkIA7+SFRVEiXlUW0oQ5dOLcmrvsTpeyD+Km+z5MlJh1QExecWRHLvrA8H3jjXka88IS2b8KC+rHL4cPFiXKyo\
    1ww0wCQgDE8+q8CNxCnU6q0PNO+FK2DpsmFYbB6LFbHnBKLpW+L6oqQI5WujY7Q9YmK3mMzKKg859yVUvvVH+QoQvb\
    p7Mvzg==";
const RSA_KEY: &str = "MIIBojANBgkqhkiG9w0BAQEFAAOCAY8AMIIBigKCAYEAzi3LwG5aZKzz4qzYzdzZtz5arxQWyDkSaL355VIz/RPh9D\
    hBC+tO2wBn7Yi3QZc61F7oGradA0VBMDemD85RhjAjMBC//2vDx7OSaLDs5K/jeHiO0IgkLxr0MgsQzeZWzwyweHos\
    7iM2qQJuBNX5mnZ7XFAkIOtTHiHfUcmqV/+Oz/r35mgoHPhveBukUHlpdzr+UodAdF1JHbc8gUWD2lSMBgajTxpj6f\
    3zAuucqBIry1y9rIcPif+IowD1Ypst18sXmNaHobXwbhbQ1FRJ58295F/zYQfQM944hC/z4EeD0uCI92129CNLeK1S\
    OWKDfzJHc3VQHapNsDI/4XoXq4ebDMU1NTqIxSXU4UAXTollhV0ql8SDBWhxYWNG++U/rEimn2xfExxM+BjCXWx8T+\
    LgucfGGUA9qYr7e1WPh6sSG6BIGQbTUkRsl3X23zH9Qg4U4ZydqlqgTCktc5To9BpGu2alYaCuxZxNI2tWsEUv2PDf\
    3d/VFrNDdbn68pUbAgMBAAE=";
const RSA_PROOF_MAX: &str = "LNaiyQ3OsmA+B19w5YgRwETa3bupfpTCFnel7F2MlPKMWa+So+4Ju5RzLdqqDaXAJGsB9lfH7tCpplCH/IpaeOisul\
    8V1SWLnwselSvBAX/HqdESxg97EjdE6fDA9weRN48V9QbwzVBvnlR2ir8tzz36N3qs1qQzH3S5o9rC8/e/9r9fXjOY\
    oOxnRkoiDkZMCuKUdjIHdL1TJqi3K0iBzDjoJvqOXCQhG4qutdZFayo/csUmsHRYZovPLB9eiQZaqEtgLCefcN3d6M\
    Hzp68c+kU2A46IsRajLMJg7HN6uoNUK9mivC5gC/NDadPHd2o4umN5AcecI5fDIBHMMqQ9uRziw6WZKSqF59OO6YmY\
    PaQ50ZIke7K9PR/VtnqSIOPDDm+VvNKYeA495Rog1I9+IEMc23Uh0I9+LR4NAuDO+cZfq8qR7HEmyEGkMIysZB7v5Z\
    F7+gSdtKFoEGVmalpFE9IMZrPYEyFbyc6F+ijft6BVIt6c2Vk61sqUpZM+xbwE";
const RSA_PROOF_32: &str = "DJB3Wm5bGZrTGmGoDnkHb4PVtk2DM2CywjaQLBxKmOtaL5N0f9ezdSw+cIr7neEbNlWQJcEfAOrTqu1+IR/QJTgy6T\
    Ht1r2N2Na25IcSFTNfEs9GJheyRDjXHe2riXNSQ6z6v0gKTIGrN9lA3TITgin3ATDXH8/Bj8kIZj3SSNdrNOBNvWnG\
    D2yJaE61Nio+Q7SfgVf21nZRcjXfCwP7FljT3caLU75DEifWZjjLujzQ3xx8d+S50hVxswERBmuw1XaOJMKfG7PR+/\
    xGoWkEypv8qs1sMgUpazqniWWsHy9DtSjaEJaizI4lD01gwH4c5tmlLyQGWKEN0LJRFCO1KpuZlUYPHeOkilIdp0/o\
    WrRdXTiFLOGnskN8YXXhMuFNFvQUj6u2fy7c5OoE5BRvoCIuhAAvx6PzQ0bLzso1QnSkSQ+t2Q3UjhS74YRy0B+qqu\
    fPh03mW7ArhJ3GG7AdqE7A957wm5rp7AfZXAQRSC8Q0epVWXhZ1Dm6d9h9l+SN";

fn check(der: &[u8]) -> Result<(), SignatureError> {
    let (_, request) = X509CertificationRequest::from_der(der).expect("a request");
    check_request(&request)
}

fn bytes(text: &str) -> Vec<u8> {
    STANDARD.decode(text).expect("base64")
}

/// Keys with proofs of [`MESSAGE`]: RSA with a salt of the hash's length, and P-521.
pub(crate) fn proofs() -> [(Vec<u8>, Vec<u8>); 2] {
    [(RSA_KEY, RSA_PROOF_32), (P521_KEY, P521_PROOF)].map(|(key, proof)| (bytes(key), bytes(proof)))
}

/// Requests by keys of P-256 and of P-384, each with the hash that is usual with the other.
pub(crate) fn crossed_requests() -> [Vec<u8>; 2] {
    [P256_SHA384, P384_SHA256].map(bytes)
}

/// A request by a key of P-521.
pub(crate) fn p521_request() -> Vec<u8> {
    bytes(P521_SHA512)
}

#[test]
fn requests_of_all_keys_that_upstream_takes_are_checked() {
    for (name, text) in [
        ("P-521", P521_SHA512),
        ("P-521 with a shorter hash", P521_SHA256),
        ("P-224", P224_SHA256),
        ("P-256 with a longer hash", P256_SHA512),
        ("P-256 with P-384's hash", P256_SHA384),
        ("P-384 with a longer hash", P384_SHA512),
        ("P-384 with a shorter hash", P384_SHA256),
        ("P-256 with the shortest hash", P256_SHA1),
        ("P-384 with the shortest hash", P384_SHA1),
        ("RSA of 1024 bits", RSA1024_SHA256),
        ("RSA-PSS", PSS),
    ] {
        let mut der = bytes(text);
        assert_eq!(check(&der), Ok(()), "{name}");
        // The name, and then the signature, is another.
        let at = der.windows(4).position(|w| w == b"jane").expect(name);
        der[at] = b'J';
        assert_eq!(check(&der), Err(SignatureError::Wrong), "{name}");
        der[at] = b'j';
        if let Some(last) = der.last_mut() {
            *last ^= 1;
        }
        assert_eq!(check(&der), Err(SignatureError::Wrong), "{name}");
    }
}

#[test]
fn requests_that_are_signed_in_other_ways_are_refused() {
    let unsupported = Err(SignatureError::Unsupported);
    // Upstream takes salts of the hash's length alone.
    assert_eq!(check(&bytes(PSS_LONGEST_SALT)), unsupported);
    // What ring does not have, though upstream does.
    assert_eq!(check(&bytes(RSA1024_SHA384)), unsupported);
    // ECDSA with SHA-224, which upstream does not know either.
    let mut der = bytes(P521_SHA256);
    let ecdsa = [0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
    let at = der.windows(8).position(|w| w == ecdsa).expect("its name");
    der[at + 7] = 1;
    assert_eq!(check(&der), unsupported);
    let mut der = bytes(RSA1024_SHA256);
    let rsa = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 0x0b];
    let at = der.windows(9).position(|w| w == rsa).expect("its name");
    // Another hash than was signed.
    der[at + 8] = 0x0d;
    assert_eq!(check(&der), Err(SignatureError::Wrong));
    let mut der = bytes(P384_SHA512);
    let curve = [0x2b, 0x81, 4, 0, 0x22];
    let at = der.windows(5).position(|w| w == curve).expect("its name");
    // A point of another curve, and a curve that nobody knows.
    der[at + 4] = 0x23;
    assert_eq!(check(&der), Err(SignatureError::Wrong));
    der[at + 4] = 0x0a;
    assert_eq!(check(&der), unsupported);
}

#[test]
fn lengths_of_numbers_are_in_bits() {
    assert_eq!(bits(&[]), 0);
    assert_eq!(bits(&[0, 0]), 0);
    assert_eq!(bits(&[0, 1]), 1);
    assert_eq!(bits(&[0, 0x80, 0]), 16);
    assert_eq!(bits(&[0x7f, 0]), 15);
}

#[test]
fn proofs_are_of_their_message_by_their_key() {
    let all = proofs();
    for (key, proof) in &all {
        let (_, key) = SubjectPublicKeyInfo::from_der(key).expect("a key");
        assert_eq!(check_proof(&key, MESSAGE, proof), Ok(()));
        let wrong = Err(SignatureError::Wrong);
        assert_eq!(check_proof(&key, b"other", proof), wrong);
        assert_eq!(check_proof(&key, MESSAGE, &[]), wrong);
        let mut broken = proof.clone();
        if let Some(last) = broken.last_mut() {
            *last ^= 1;
        }
        assert_eq!(check_proof(&key, MESSAGE, &broken), wrong);
    }
    // Upstream verifies it; what verifies here does not.
    let (_, key) = SubjectPublicKeyInfo::from_der(&all[0].0).expect("a key");
    let longest = check_proof(&key, MESSAGE, &bytes(RSA_PROOF_MAX));
    assert_eq!(longest, Err(SignatureError::Wrong));
    let (_, key) = SubjectPublicKeyInfo::from_der(&all[1].0).expect("a key");
    assert_eq!(curve_name(&key), Some("P-521"));
    let (_, key) = SubjectPublicKeyInfo::from_der(&all[0].0).expect("a key");
    assert_eq!(curve_name(&key), None);
}
