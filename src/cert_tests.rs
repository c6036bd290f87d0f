//! Tests of certificates; and certificates for other tests.

use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    PKCS_ECDSA_P256_SHA256, PKCS_ED25519, date_time_ymd,
};

use super::*;

/// A certificate with its key, as files would hold them.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

/// An authority that signs.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) pem: String,
}

fn params(common_name: &str, names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).expect("params");
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, common_name);
    params.distinguished_name = subject;
    (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2090, 1, 1));
    params
}

fn new_key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("key")
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let key = new_key();
        let mut params = params(name, &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = to_pem(
            "CERTIFICATE",
            params.self_signed(&key).expect("signed").der(),
        );
        let issuer = Issuer::new(params, key);
        Self { issuer, pem }
    }

    /// An authority below this one.
    pub(crate) fn below(&self, name: &str) -> Self {
        let key = new_key();
        let mut params = params(name, &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let signed = params.signed_by(&key, &self.issuer).expect("signed");
        let pem = to_pem("CERTIFICATE", signed.der());
        let issuer = Issuer::new(params, key);
        Self { issuer, pem }
    }

    /// A certificate for these names, the first of them also its common name; alone.
    pub(crate) fn sign(&self, names: &[&str]) -> Files {
        self.sign_params(params(names.first().unwrap_or(&""), names))
    }

    fn sign_params(&self, params: CertificateParams) -> Files {
        let key = new_key();
        let signed = params.signed_by(&key, &self.issuer).expect("signed");
        Files {
            certificate: to_pem("CERTIFICATE", signed.der()),
            key: to_pem("PRIVATE KEY", key.serialized_der()),
        }
    }
}

/// A certificate for these names that signs itself.
pub(crate) fn self_signed(names: &[&str]) -> Files {
    let key = new_key();
    let signed = params(names[0], names).self_signed(&key).expect("signed");
    Files {
        certificate: to_pem("CERTIFICATE", signed.der()),
        key: to_pem("PRIVATE KEY", key.serialized_der()),
    }
}

fn now() -> Timestamp {
    "2026-07-01T00:00:00Z".parse().expect("time")
}

fn names(names: &[&str]) -> BTreeSet<DomainName> {
    names
        .iter()
        .map(|name| name.parse().expect("name"))
        .collect()
}

#[test]
fn a_chain_and_its_key_are_read() {
    let root = Authority::new("Root");
    let middle = root.below("Middle");
    let leaf = middle.sign(&[
        "www.example.com",
        "Example.COM",
        "*.shop.example.com",
        "192.0.2.1",
    ]);
    // What else stands in the files is no business of ours: a key in the certificate's, say.
    let file = format!(
        "Bag Attributes\n{}\n{}{}{}",
        leaf.key, leaf.certificate, middle.pem, root.pem
    );
    let checked = check(&file, &leaf.key, now()).expect("good");
    assert_eq!(
        checked.chain,
        format!("{}{}{}", leaf.certificate, middle.pem, root.pem)
    );
    assert_eq!(*checked.key.expose(), leaf.key);
    let facts = checked.facts;
    assert_eq!(facts.subject, "CN=www.example.com");
    assert_eq!(facts.issuer, "CN=Middle");
    assert_eq!(
        facts.common_name,
        Some("www.example.com".parse().expect("name"))
    );
    assert_eq!(
        facts.names,
        names(&["www.example.com", "example.com", "*.shop.example.com"])
    );
    assert_eq!(facts.not_after.to_string(), "2090-01-01T00:00:00Z");
    assert_eq!(facts.fingerprint.len(), 32 * 3 - 1);
}

#[test]
fn what_a_client_would_refuse_is_refused() {
    let (root, other) = (Authority::new("Root"), Authority::new("Root"));
    let middle = root.below("Middle");
    let leaf = middle.sign(&["www.example.com"]);
    let stranger = self_signed(&["www.example.com"]);
    let old = {
        let mut params = params("old.example.com", &["old.example.com"]);
        params.not_after = date_time_ymd(2024, 2, 3);
        middle.sign_params(params)
    };
    let many = leaf.certificate.repeat(MAX_CHAIN + 1);
    let broken = to_pem("CERTIFICATE", b"no DER");
    let locked = leaf.key.replace("BEGIN PRIVATE", "BEGIN ENCRYPTED PRIVATE");
    let (cert, key) = (leaf.certificate.as_str(), leaf.key.as_str());
    for (chain, key, want) in [
        (vec![""], key, "there is no certificate in it"),
        (vec![key], key, "there is no certificate in it"),
        (vec![&many], key, "it holds 11 certificates"),
        (vec![&broken], key, "certificate 1 is broken"),
        (vec![cert, &broken], key, "certificate 2 is broken"),
        (
            vec!["-----BEGIN CERTIFICATE-----\nAAAA"],
            key,
            "its PEM is broken",
        ),
        (vec![cert], "", "there is no private key in it"),
        (vec![cert], cert, "there is no private key in it"),
        (vec![cert], &locked, "has a passphrase"),
        (
            vec![cert],
            &stranger.key,
            "does not belong to the certificate",
        ),
        (
            vec![&old.certificate],
            &old.key,
            "certificate 1 has expired, on 2024-02-03T00:00:00Z",
        ),
        (
            vec![cert, &root.pem],
            key,
            "certificate 1 is not issued by the one after it",
        ),
        (
            vec![cert, &root.pem, &middle.pem],
            key,
            "certificate 1 is not issued",
        ),
        (
            vec![cert, &middle.pem, &stranger.certificate],
            key,
            "certificate 2 is not issued",
        ),
        (
            vec![&middle.pem, cert],
            key,
            "belongs to certificate 2 of the chain",
        ),
        // Of the right name, and not the one that signed.
        (
            vec![cert, &middle.pem, &other.pem],
            key,
            "its chain does not hold",
        ),
    ] {
        let error = check(&chain.concat(), key, now()).expect_err(want);
        assert!(error.to_string().contains(want), "{want}: {error}");
    }
}

#[test]
fn kinds_of_keys() {
    let sign = |kind| {
        let key = KeyPair::generate_for(kind).expect("key");
        let signed = params("a.example", &["a.example"])
            .self_signed(&key)
            .expect("signed");
        let (cert, key) = (
            to_pem("CERTIFICATE", signed.der()),
            to_pem("PRIVATE KEY", key.serialized_der()),
        );
        check(&cert, &key, now()).map(drop)
    };
    assert!(sign(&PKCS_ED25519).is_ok());
    assert!(sign(&rcgen::PKCS_ECDSA_P384_SHA384).is_ok());
    assert!(sign(&rcgen::PKCS_RSA_SHA256).is_ok());
}

#[test]
fn a_certificate_without_alternative_names_is_for_its_common_name() {
    let root = Authority::new("Root");
    let facts = |common_name: &str| {
        let files = root.sign_params(params(common_name, &[]));
        check(&files.certificate, &files.key, now())
            .expect("good")
            .facts
    };
    assert_eq!(facts("WWW.example.com").names, names(&["www.example.com"]));
    let person = facts("Ada \u{1b}[31mLovelace");
    assert_eq!((person.common_name, person.names.len()), (None, 0));
    assert!(!person.subject.contains('\u{1b}'), "{:?}", person.subject);
}

#[test]
fn what_it_is_served_for() {
    let served = |common_name: &str, alternative: &[&str], asked: Option<&str>| {
        let facts = Facts {
            subject: String::new(),
            issuer: String::new(),
            common_name: domain(common_name),
            names: names(alternative),
            fingerprint: String::new(),
            not_before: now(),
            not_after: now(),
        };
        let asked = asked.map(|name| name.parse().expect("name"));
        facts.served_for(asked).map(|(name, all)| {
            let all: Vec<&str> = all.iter().map(DomainName::as_str).collect();
            format!("{name}: {}", all.join(" "))
        })
    };
    let cases: &[(&str, &[&str], Option<&str>, &str)] = &[
        ("b.x", &["a.x", "b.x"], None, "b.x: a.x b.x"),
        ("The Shop", &["*.a.x", "b.x"], None, "b.x: *.a.x b.x"),
        ("", &["*.a.x"], None, "*.a.x: *.a.x"),
        ("c.x", &["a.x"], None, "a.x: a.x"),
        ("b.x", &["a.x", "b.x"], Some("a.x"), "a.x: a.x"),
        ("b.x", &["*.a.x"], Some("www.a.x"), "www.a.x: www.a.x"),
    ];
    for (common_name, alternative, asked, want) in cases {
        let got = served(common_name, alternative, *asked).expect(want);
        assert_eq!(got, *want);
    }
    let error = served("b.x", &["a.x"], Some("d.x")).expect_err("not for that");
    assert_eq!(
        error.to_string(),
        "the certificate is not for d.x, but for a.x: clients would refuse it"
    );
    for asked in [None, Some("d.x")] {
        assert!(matches!(
            served("Ada", &[], asked),
            Err(CertError::Nameless)
        ));
    }
}

#[test]
fn wildcards_cover_one_label() {
    let these = names(&["a.example", "*.b.example"]);
    for (host, want) in [
        ("a.example", true),
        ("b.example", false),
        ("x.b.example", true),
        ("*.b.example", true),
        ("y.x.b.example", false),
        ("x.a.example", false),
        ("example", false),
    ] {
        assert_eq!(covers(&these, &host.parse().expect("name")), want, "{host}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_text_is_taken_for_a_pair(a in ".{0,200}", b in ".{0,200}") {
        prop_assert!(check(&a, &b, now()).is_err());
    }

    #[test]
    fn a_flipped_byte_is_never_served_with_another_key(at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let files = self_signed(&["a.example"]);
        let mut der = CertificateDer::from_pem_slice(files.certificate.as_bytes()).expect("pem").to_vec();
        let at = at.index(der.len());
        der[at] ^= 1 << bit;
        // It may still be read (a self-signed one is signed by nobody that counts), but never panics.
        if let Ok(checked) = check(&to_pem("CERTIFICATE", &der), &files.key, now()) {
            let chain = read_chain(&checked.chain).expect("chain");
            prop_assert!(pair(chain, read_key(checked.key.expose()).expect("key")).is_ok());
        }
    }

    #[test]
    fn pem_goes_there_and_back(der in prop::collection::vec(any::<u8>(), 0..300)) {
        let text = to_pem("CERTIFICATE", &der);
        let read = CertificateDer::from_pem_slice(text.as_bytes()).expect("pem");
        prop_assert_eq!(read.as_ref(), der.as_slice());
        prop_assert!(text.lines().all(|line| line.len() <= 64));
    }
}
