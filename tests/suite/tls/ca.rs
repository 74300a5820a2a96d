//! `wxtoken ca init`.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertificateParams, DnType, Issuer, KeyPair, KeyUsagePurpose};
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};

use super::{CHAIN, Ca, HOST, KEY, name, run};
use crate::support::api::http_client;

/// Everything in the directory, and who may do what with it.
fn contents(ca: &Ca) -> BTreeMap<String, (String, u32)> {
    let entries = fs::read_dir(ca.path("")).expect("it can be read").map(|entry| entry.expect("it can be read"));
    entries
        .map(|entry| {
            let mode = entry.metadata().expect("it is there").permissions().mode() & 0o777;
            (entry.file_name().to_string_lossy().into_owned(), (fs::read_to_string(entry.path()).expect("text"), mode))
        })
        .collect()
}

/// How a client judges a certificate that trusts the CA.
fn judge(ca: &Ca, certificate: &CertificateDer<'_>, name: &ServerName<'_>, days: u64) -> Result<(), rustls::Error> {
    http_client();
    let mut roots = RootCertStore::empty();
    roots.add(ca.certificate("ca.pem")).expect("a certificate");
    let verifier = WebPkiServerVerifier::builder(Arc::new(roots)).build().expect("one root");
    let at = Duration::from_secs(UnixTime::now().as_secs()) + Duration::from_hours(24 * days);
    verifier.verify_server_cert(certificate, &[], name, &[], UnixTime::since_unix_epoch(at)).map(|_| ())
}

#[test]
fn it_makes_a_ca_and_a_certificate_and_says_what_to_do_with_them() {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let output = run(directory.path(), &["ca", "init"]);
    let talk = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{talk}");
    let data = String::from_utf8_lossy(&output.stdout);
    for (name, mode) in [("ca.pem", 0o644), ("ca-key.pem", 0o600), (CHAIN, 0o644), (KEY, 0o600)] {
        let path = format!("wxtoken-ca/{name}");
        let found = fs::metadata(directory.path().join(&path)).unwrap_or_else(|_| panic!("{name} was not made"));
        assert_eq!(found.permissions().mode() & 0o777, mode, "{name}");
        assert!(data.lines().any(|line| line == path), "{data}");
    }
    assert_eq!(data.lines().count(), 4, "{data}");
    for word in ["WXTOKEN_TLS_LISTEN", "WXTOKEN_CONNECT_LISTEN", "NODE_EXTRA_CA_CERTS=wxtoken-ca/ca.pem", "--renew"] {
        assert!(talk.contains(word), "{word} is missing in {talk}");
    }
    assert!(!talk.contains("WXTOKEN_TLS_DIR"), "the directory is the one that is looked in: {talk}");
}

#[test]
fn the_setting_says_where_and_the_flag_says_so_louder() {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    fs::write(directory.path().join(".env"), "WXTOKEN_TLS_DIR=by/setting\n").expect("a file can be written");
    for (arguments, place, named) in
        [(&["ca", "init"][..], "by/setting", false), (&["ca", "init", "--dir", "by/flag"], "by/flag", true)]
    {
        let output = run(directory.path(), arguments);
        let talk = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{talk}");
        assert!(directory.path().join(place).join("ca.pem").exists());
        assert_eq!(talk.contains("WXTOKEN_TLS_DIR=by/flag"), named, "{talk}");
    }
}

#[test]
fn a_second_time_it_changes_nothing_and_says_so() {
    let ca = Ca::new();
    let before = contents(&ca);
    let output = ca.init(&[]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let talk = String::from_utf8_lossy(&output.stderr);
    assert!(talk.contains("ca.pem") && talk.contains("--renew"), "{talk}");
    assert!(contents(&ca) == before && output.stdout.is_empty());
    fs::remove_file(ca.path("ca.pem")).expect("it is there");
    let before = contents(&ca);
    let output = ca.init(&[]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("ca-key.pem"), "{output:?}");
    assert!(contents(&ca) == before);
}

#[test]
fn a_renewal_keeps_the_ca_and_makes_a_new_certificate_and_key() {
    let ca = Ca::new();
    let before = contents(&ca);
    let output = ca.init(&["--renew"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), 2);
    let after = contents(&ca);
    assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
    for (file, (text, mode)) in &after {
        let (old_text, old_mode) = &before[file];
        assert_eq!(mode, old_mode, "{file}");
        assert_eq!(text == old_text, file.starts_with("ca"), "{file}");
    }
    judge(&ca, &ca.certificate(CHAIN), &name(), 0).expect("clients accept it");
}

#[test]
fn a_renewal_without_a_sound_ca_changes_nothing() {
    let (ca, other) = (Ca::new(), Ca::new());
    let key = ca.text("ca-key.pem");
    let refused = |code: i32, word: &str| {
        let before = contents(&ca);
        let output = ca.init(&["--renew"]);
        let talk = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{talk}");
        assert!(talk.contains(word) && !talk.contains("PRIVATE"), "{talk}");
        assert!(contents(&ca) == before);
    };
    fs::set_permissions(ca.path("ca-key.pem"), Permissions::from_mode(0o640)).expect("the mode can be changed");
    refused(78, "chmod 600");
    fs::set_permissions(ca.path("ca-key.pem"), Permissions::from_mode(0o600)).expect("the mode can be changed");
    fs::write(ca.path("ca-key.pem"), other.text("ca-key.pem")).expect("a file can be written");
    refused(1, "clients would refuse");
    fs::write(ca.path("ca-key.pem"), "no key").expect("a file can be written");
    refused(1, "no private key");
    fs::remove_file(ca.path("ca-key.pem")).expect("it is there");
    refused(2, "does not exist");
    fs::write(ca.path("ca-key.pem"), key).expect("a file can be written");
    fs::set_permissions(ca.path("ca-key.pem"), Permissions::from_mode(0o600)).expect("the mode can be changed");
    assert_eq!(ca.init(&["--renew"]).status.code(), Some(0), "nothing else stood against it");
}

#[test]
fn the_certificate_lasts_as_long_as_every_client_allows() {
    let ca = Ca::new();
    let leaf = ca.certificate(CHAIN);
    for days in [0, 823] {
        judge(&ca, &leaf, &name(), days).expect("it is good");
    }
    assert!(judge(&ca, &leaf, &name(), 825).is_err());
    let other = ServerName::try_from("api2.weixin.qq.com").expect("a name");
    assert!(judge(&ca, &leaf, &other, 0).is_err());
}

#[test]
fn a_stolen_ca_passes_for_no_other_host() {
    let ca = Ca::new();
    let key = KeyPair::from_pem(&ca.text("ca-key.pem")).expect("a key");
    let mut issuer = CertificateParams::default();
    issuer.distinguished_name.remove(DnType::CommonName);
    issuer.distinguished_name.push(DnType::CommonName, "wxtoken CA for api.weixin.qq.com only");
    issuer.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let issuer = Issuer::new(issuer, key);
    for (host, accepted) in [(HOST, true), ("mp.weixin.qq.com", false), ("example.com", false), ("127.0.0.1", false)] {
        let leaf = CertificateParams::new(vec![host.to_owned()]).expect("a name");
        let leaf = leaf.signed_by(&KeyPair::generate().expect("a key"), &issuer).expect("it is signed");
        let judged = judge(&ca, leaf.der(), &ServerName::try_from(host).expect("a name"), 0);
        assert_eq!(judged.is_ok(), accepted, "{host}: {judged:?}");
        if !accepted {
            assert!(format!("{judged:?}").contains("NameConstraint"), "{host}: {judged:?}");
        }
    }
}
