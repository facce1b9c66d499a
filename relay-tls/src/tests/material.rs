//! Files, good and bad.

use proptest::prelude::*;

use super::pki::{Authority, Leaf};
use crate::{Material, MaterialError, Pem};

struct Files {
    chain: String,
    key: String,
    ca: String,
}

fn files() -> Files {
    let authority = Authority::new("ca");
    let issued = authority.issue(&Leaf::default());
    Files { chain: issued.chain, key: issued.key, ca: authority.pem }
}

fn load(files: &Files) -> Result<Material, MaterialError> {
    load_bytes(files.chain.as_bytes(), files.key.as_bytes(), files.ca.as_bytes())
}

fn load_bytes(chain: &[u8], key: &[u8], ca: &[u8]) -> Result<Material, MaterialError> {
    Material::from_pem(
        Pem { file: "/x/tls.crt", bytes: chain },
        Pem { file: "/x/tls.key", bytes: key },
        Pem { file: "/x/ca.crt", bytes: ca },
    )
}

fn error(files: &Files) -> String {
    load(files).unwrap_err().to_string()
}

const KEY_KINDS: &str = "a private key (PRIVATE KEY, EC PRIVATE KEY or RSA PRIVATE KEY)";

#[test]
fn good_files_in_every_shape() {
    let good = files();
    let material = load(&good).unwrap();
    assert_eq!(material.leaf().common_name(), Some("node"));
    assert_eq!(material.leaf().not_after_text(), "2100-01-01T00:00:00Z");
    let debug = format!("{material:?}");
    assert!(!debug.contains("key: "), "{debug}");
    // Windows' line ends, text around the blocks, everything in one file.
    let all = format!("{}{}{}", good.key, good.chain, good.ca);
    for files in [
        Files {
            chain: good.chain.replace('\n', "\r\n"),
            key: good.key.replace('\n', "\r\n"),
            ca: good.ca.clone(),
        },
        Files {
            chain: format!("subject=x\n{}", good.chain),
            key: format!("\n\n{}", good.key),
            ca: good.ca.clone(),
        },
        Files { chain: all.clone(), key: all, ca: good.ca.clone() },
        Files { chain: good.chain.trim_end().to_owned(), key: good.key.clone(), ca: good.ca.repeat(2) },
    ] {
        load(&files).unwrap();
    }
}

#[test]
fn the_wrong_kind() {
    let good = files();
    let key = error(&Files { key: good.chain.clone(), ..files() });
    assert_eq!(key, format!("/x/tls.key:1: expected {KEY_KINDS}, found CERTIFICATE"));
    let chain = error(&Files { chain: format!("# a key\n{}", good.key), ..files() });
    assert_eq!(chain, "/x/tls.crt:2: expected a certificate (CERTIFICATE), found PRIVATE KEY");
    let ca = error(&Files { ca: good.key.clone(), ..good });
    assert_eq!(ca, "/x/ca.crt:1: expected CA certificates (CERTIFICATE), found PRIVATE KEY");
}

#[test]
fn nothing_there() {
    let empty = error(&Files { key: String::from(" \n\n"), ..files() });
    assert_eq!(empty, format!("/x/tls.key: expected {KEY_KINDS}, the file is empty"));
    let text = error(&Files { ca: String::from("hello\n"), ..files() });
    assert!(
        text.starts_with("/x/ca.crt: expected CA certificates (CERTIFICATE), found no PEM block"),
        "{text}"
    );
    let der = load_bytes(&[0x30, 0x82, 0, 1, 0xff], b"x", b"x").unwrap_err().to_string();
    assert!(der.contains("found no PEM block"), "{der}");
}

#[test]
fn broken_blocks() {
    let good = files();
    let chain = format!("{}{}", good.chain, good.chain);
    let lines: Vec<&str> = chain.lines().collect();
    let second = lines.len() / 2 + 1;
    let cut = lines[..lines.len() - 1].join("\n");
    assert_eq!(
        error(&Files { chain: cut, ..files() }),
        format!("/x/tls.crt:{second}: the CERTIFICATE block has no -----END CERTIFICATE----- line")
    );
    // The next block begins before this one ended.
    let overlap = chain.replacen("-----END CERTIFICATE-----\n", "", 1);
    assert!(
        error(&Files { chain: overlap, ..files() }).starts_with("/x/tls.crt:1: the CERTIFICATE block has no")
    );
    let base64 = good.key.replacen("\nM", "\n!", 1);
    assert_eq!(
        error(&Files { key: base64, ..files() }),
        "/x/tls.key:1: the PRIVATE KEY block is not valid base64"
    );
    let marker = good.key.replacen("-----BEGIN PRIVATE KEY-----", "-----BEGIN PRIVATE KEY--", 1);
    assert_eq!(error(&Files { key: marker, ..files() }), "/x/tls.key:1: malformed -----BEGIN line");
}

#[test]
fn wrong_contents() {
    let block = |label: &str| format!("-----BEGIN {label}-----\nAAAA\n-----END {label}-----\n");
    let chain = error(&Files { chain: block("CERTIFICATE"), ..files() });
    assert_eq!(chain, "/x/tls.crt:1: not a usable certificate: its content is not X.509");
    let key = error(&Files { key: block("RSA PRIVATE KEY"), ..files() });
    assert!(key.starts_with("/x/tls.key:1: not a usable private key: "), "{key}");
    let ca = error(&Files { ca: format!("{}{}", files().ca, block("CERTIFICATE")), ..files() });
    assert!(ca.starts_with("/x/ca.crt:") && ca.contains("not a usable certificate: "), "{ca}");
    assert!(!ca.starts_with("/x/ca.crt:1:"), "{ca}");
}

#[test]
fn a_key_of_another_certificate() {
    let error = error(&Files { key: files().key, ..files() });
    assert_eq!(error, "/x/tls.key:1: the private key does not belong to the certificate in /x/tls.crt");
}

#[test]
fn a_chain_whose_first_certificate_is_not_ours_says_where_ours_is() {
    let mut files = files();
    files.chain = format!("{}{}", files.ca, files.chain);
    let error = error(&files);
    assert!(error.contains("certificate number 2 in /x/tls.crt, and ours has to be the first"), "{error}");
}

#[test]
fn encrypted_keys_say_how_to_decrypt_them() {
    let pkcs8 = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let legacy = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nAAAA\n-----END RSA PRIVATE KEY-----\n";
    for key in [pkcs8, legacy] {
        let error = error(&Files { key: key.to_owned(), ..files() });
        assert!(
            error.starts_with("/x/tls.key:1: the private key is encrypted; decrypt it with: openssl pkey"),
            "{error}"
        );
    }
}

/// What `openssl ecparam -genkey` writes: parameters first, then a key as SEC1 has it.
#[test]
fn parameters_in_front_of_a_key_are_skipped() {
    let parameters = "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n";
    let good = files();
    load(&Files { key: format!("{parameters}{}", good.key), ..good }).unwrap();
    let error = error(&Files { key: parameters.to_owned(), ..files() });
    assert!(error.contains("found no PEM block") || error.contains("expected"), "{error}");
}

#[test]
fn revocation_lists() {
    let authority = Authority::new("ca");
    let issued = authority.issue(&Leaf::default());
    let material = super::pki::material(&issued, &authority);
    let list = authority.revoke(&[1], 2100);
    material.clone().with_crls(Pem { file: "/x/crl", bytes: list.as_bytes() }).unwrap();
    let bad = format!("{list}-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n");
    let line = list.lines().count() + 1;
    let error = material.clone().with_crls(Pem { file: "/x/crl", bytes: bad.as_bytes() }).unwrap_err();
    assert_eq!((error.file(), error.line()), ("/x/crl", Some(line)));
    assert!(error.to_string().contains("not a usable certificate revocation list"), "{error}");
    let error = material.with_crls(Pem { file: "/x/crl", bytes: issued.key.as_bytes() }).unwrap_err();
    assert_eq!(
        error.to_string(),
        "/x/crl:1: expected certificate revocation lists (X509 CRL), found PRIVATE KEY"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Whatever a file holds, there is an answer of one line.
    #[test]
    fn any_bytes_are_answered(pieces in proptest::collection::vec(0_usize..7, 0..12), noise: Vec<u8>) {
        let begin = b"-----BEGIN PRIVATE KEY-----".as_slice();
        let end = b"-----END PRIVATE KEY-----".as_slice();
        let words = [begin, end, b"\n", b"MIG", b"-----BEGIN ", b"-----", noise.as_slice()];
        let bytes: Vec<u8> = pieces.iter().flat_map(|&piece| words[piece].iter().copied()).collect();
        let good = files();
        if let Err(error) = load_bytes(good.chain.as_bytes(), &bytes, good.ca.as_bytes()) {
            let text = error.to_string();
            prop_assert!(text.starts_with("/x/tls.key"), "{}", text);
        }
    }
}

/// What a metric of expiry is made of: the first to end counts.
#[test]
fn the_first_authority_and_the_first_list_to_end_are_known() {
    let [authority, other] = ["ca", "other"].map(Authority::new);
    let issued = authority.issue(&Leaf { years: (2020, 2090), ..Leaf::default() });
    let both = authority.pem.clone() + &other.issue(&Leaf { years: (2020, 2050), ..Leaf::default() }).chain;
    let material = load_bytes(issued.chain.as_bytes(), issued.key.as_bytes(), both.as_bytes()).unwrap();
    let year = |year: u64| (year - 1970) * 31_556_952;
    assert!(material.leaf().not_after().abs_diff(year(2090)) < 86_400 * 2);
    assert!(material.authorities_end().is_some_and(|end| end.abs_diff(year(2050)) < 86_400 * 2));
    assert_eq!(material.lists_end(), None);
    let lists = [2100, 2060, 2080].map(|until| authority.revoke(&[], until)).concat();
    let material = material.with_crls(Pem { file: "crl", bytes: lists.as_bytes() }).unwrap();
    assert!(material.lists_end().is_some_and(|end| end.abs_diff(year(2060)) < 86_400 * 2));
}
