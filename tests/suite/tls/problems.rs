//! Starts that cannot serve WeChat's name.

use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rcgen::{CertificateParams, KeyPair};

use super::{CHAIN, Ca, HOST, KEY};
use crate::support::process::{Server, ServerBuilder};

/// Tries to start a server, and finds it ended and nothing made.
async fn refused(server: ServerBuilder, code: i32, words: &[&str]) {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let (status, output) =
        server.without_env("WXTOKEN_MASTER_KEY").directory(directory.path()).start_expecting_exit().await;
    assert_eq!(status.code(), Some(code), "{output}");
    for word in words {
        assert!(output.contains(word), "{word} is missing in {output}");
    }
    assert!(!output.contains("listening on") && !output.contains("PRIVATE"), "{output}");
    assert_eq!(fs::read_dir(directory.path()).expect("it is there").count(), 0, "nothing was made");
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).expect("a file can be written");
}

/// A certificate by nobody in particular, and its key.
fn make(ca: &Ca, host: &str, years: std::ops::Range<i32>) {
    let key = KeyPair::generate().expect("a key");
    let mut leaf = CertificateParams::new(vec![host.to_owned()]).expect("a name");
    (leaf.not_before, leaf.not_after) =
        (rcgen::date_time_ymd(years.start, 1, 1), rcgen::date_time_ymd(years.end, 1, 1));
    let root = KeyPair::generate().expect("a key");
    let mut above = CertificateParams::default();
    above.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let above = rcgen::CertifiedIssuer::self_signed(above, root).expect("it is signed");
    let leaf = leaf.signed_by(&key, &above).expect("it is signed");
    write(&ca.path(CHAIN), &format!("{}{}", leaf.pem(), above.pem()));
    write(&ca.path(KEY), &key.serialize_pem());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_sound_certificate_it_does_not_start() {
    for setting in ["WXTOKEN_TLS_LISTEN", "WXTOKEN_CONNECT_LISTEN"] {
        let server = Server::builder().env(setting, "127.0.0.1:0");
        refused(server, 78, &["wxtoken-ca/api.weixin.qq.com.pem", "`wxtoken ca init`", "WXTOKEN_TLS_DIR"]).await;
    }
    let ca = Ca::new();
    let server = || ca.served_by(Server::builder());
    let key = ca.text(KEY);
    fs::remove_file(ca.path(KEY)).expect("it is there");
    refused(server(), 78, &[KEY, "`wxtoken ca init`"]).await;
    write(&ca.path(KEY), &key);
    refused(server(), 78, &["chmod 600", KEY]).await;
    fs::set_permissions(ca.path(KEY), Permissions::from_mode(0o600)).expect("the mode can be changed");
    write(&ca.path(KEY), &Ca::new().text(KEY));
    refused(server(), 78, &["do not go together", "`wxtoken ca init --renew`"]).await;
    write(&ca.path(KEY), "no key");
    refused(server(), 78, &["no private key", "`wxtoken ca init --renew`"]).await;
    write(&ca.path(KEY), &key);
    let chain = ca.text(CHAIN);
    for text in ["", "no certificate", "-----BEGIN CERTIFICATE-----\nAAAA", chain.replace('\n', " ").as_str()] {
        write(&ca.path(CHAIN), text);
        refused(server(), 78, &["no certificate in", CHAIN]).await;
    }
    make(&ca, "api2.weixin.qq.com", 2020..2090);
    refused(server(), 78, &["is not for api.weixin.qq.com", "`wxtoken ca init`"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_found_before_anything_is_made() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port can be bound");
    let address = taken.local_addr().expect("it is bound").to_string();
    let ca = Ca::new();
    for setting in ["WXTOKEN_TLS_LISTEN", "WXTOKEN_CONNECT_LISTEN"] {
        refused(ca.served_by(Server::builder()).env(setting, &address), 1, &[setting, &address]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_has_ended_is_told_and_does_not_keep_others_from_their_tokens() {
    let ca = Ca::new();
    make(&ca, HOST, 2020..2021);
    let server = ca.served_by(Server::builder()).start().await;
    assert!(server.output().contains("has ended"), "{}", server.output());
    make(&ca, HOST, 2020..2090);
    let server = ca.served_by(Server::builder()).start().await;
    assert!(!server.output().contains("ended"), "a certificate of one's own does: {}", server.output());
}
