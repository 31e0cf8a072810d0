//! Certificates for tests, made with `openssl`.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// What `openssl ca` has to be told.
const CONFIG: &str = "\
[ca]
default_ca = authority
[authority]
database = index
new_certs_dir = .
default_md = sha256
policy = policy
unique_subject = no
rand_serial = yes
[policy]
commonName = supplied
";

/// An authority, and what it has signed, in a folder of their own.
#[derive(Debug)]
pub struct Authority(TempDir);

/// The files of a certificate.
#[derive(Debug, Clone)]
pub struct Issued {
    /// The certificate.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl Authority {
    /// Makes one; all have the same name.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        let authority = Self(TempDir::new().unwrap());
        std::fs::write(authority.at("config"), CONFIG).unwrap();
        std::fs::write(authority.at("index"), "").unwrap();
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key";
        authority.openssl(&format!(
            "req -x509 {key} -days 2 -out ca.crt -subj /CN=authority"
        ));
        authority
    }

    /// Its own certificate.
    pub fn ca(&self) -> PathBuf {
        self.at("ca.crt")
    }

    /// Signs a certificate for these names, such as `IP:127.0.0.1,DNS:localhost`.
    pub fn issue(&self, file: &str, names: &str) -> Issued {
        self.sign(file, &format!("subjectAltName={names}"), "-days 2")
    }

    /// Signs a certificate whose time is over.
    pub fn issue_expired(&self, file: &str, names: &str) -> Issued {
        let over = "-startdate 20200101000000Z -enddate 20210101000000Z";
        self.sign(file, &format!("subjectAltName={names}"), over)
    }

    /// Signs a certificate with these extensions, for this time.
    pub fn sign(&self, file: &str, extensions: &str, time: &str) -> Issued {
        std::fs::write(self.at("extensions"), format!("{extensions}\n")).unwrap();
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
        self.openssl(&format!(
            "req {key} -keyout {file}.key -out {file}.csr -subj /CN={file}"
        ));
        self.openssl(&format!(
            "ca -batch -config config -cert ca.crt -keyfile ca.key -extfile extensions {time} -notext \
             -in {file}.csr -out {file}.crt"
        ));
        Issued {
            cert: self.at(format!("{file}.crt")),
            key: self.at(format!("{file}.key")),
        }
    }

    /// The path of a file in the folder.
    pub fn at(&self, file: impl AsRef<Path>) -> PathBuf {
        self.0.path().join(file)
    }

    fn openssl(&self, words: &str) {
        let mut command = Command::new("openssl");
        command.args(words.split_whitespace());
        let output = command.current_dir(self.0.path()).output().unwrap();
        assert!(output.status.success(), "openssl {words}: {output:?}");
    }
}
