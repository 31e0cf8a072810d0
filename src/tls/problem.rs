//! Why a TLS connection was not made.

use serde::{Deserialize, Serialize};

/// Why a TLS connection was not made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The certificate of the other side is refused here.
    #[error("its certificate {0}")]
    Theirs(CertificateProblem),
    /// The other side refuses the certificate of this one.
    #[error("it refuses our certificate, which {0}")]
    Ours(CertificateProblem),
    /// What the other side said is no TLS, or none that both sides know.
    #[error("no TLS connection could be made: {0}")]
    Handshake(String),
}

/// What is wrong with a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateProblem {
    /// No authority that is trusted has signed it.
    #[error("is signed by no authority that is trusted: both sides need the same authority")]
    UnknownAuthority,
    /// Its time is over, or, where the other side says so, has not come yet.
    #[error("has expired: renew it, or correct the clock")]
    Expired,
    /// Its time has not come yet.
    #[error("is not valid yet: correct the clock, or wait")]
    NotYetValid,
    /// It is another name's.
    #[error("does not have the name that it needs{}", detail(.0))]
    WrongName(
        /// Which names it has and lacks, if that is known.
        String,
    ),
    /// There was none.
    #[error("is missing: the other side wants one")]
    Missing,
    /// Its extensions do not allow what it is used for.
    #[error(
        "may not be used so: its extendedKeyUsage has to have both serverAuth and clientAuth, or to be left out"
    )]
    Purpose,
    /// Something else.
    #[error("cannot be used: {0}")]
    Other(
        /// What it is.
        String,
    ),
}

fn detail(text: &str) -> String {
    match text {
        "" => String::new(),
        text => format!(": {text}"),
    }
}

#[cfg(feature = "tls")]
impl From<&rustls::Error> for TlsError {
    fn from(error: &rustls::Error) -> Self {
        use rustls::{AlertDescription as Alert, CertificateError, Error};
        match error {
            Error::NoCertificatesPresented => Self::Theirs(CertificateProblem::Missing),
            Error::InvalidCertificate(error) => Self::Theirs(match error {
                CertificateError::UnknownIssuer => CertificateProblem::UnknownAuthority,
                // It claims an authority of a name that is trusted, with another key.
                CertificateError::BadSignature => CertificateProblem::UnknownAuthority,
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                    CertificateProblem::Expired
                }
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                    CertificateProblem::NotYetValid
                }
                CertificateError::NotValidForName => CertificateProblem::WrongName(String::new()),
                CertificateError::NotValidForNameContext { .. } => {
                    CertificateProblem::WrongName(error.to_string())
                }
                CertificateError::InvalidPurpose
                | CertificateError::InvalidPurposeContext { .. } => CertificateProblem::Purpose,
                other => CertificateProblem::Other(other.to_string()),
            }),
            Error::AlertReceived(alert) => match alert {
                // Which of the two the other side says depends on the names of the authorities.
                Alert::UnknownCA | Alert::DecryptError => {
                    Self::Ours(CertificateProblem::UnknownAuthority)
                }
                Alert::CertificateExpired => Self::Ours(CertificateProblem::Expired),
                Alert::CertificateRequired => Self::Ours(CertificateProblem::Missing),
                Alert::AccessDenied | Alert::BadCertificate => {
                    Self::Ours(CertificateProblem::WrongName(String::new()))
                }
                Alert::UnsupportedCertificate => Self::Ours(CertificateProblem::Purpose),
                Alert::CertificateUnknown | Alert::CertificateRevoked => {
                    Self::Ours(CertificateProblem::Other(format!("{alert:?}")))
                }
                other => Self::Handshake(format!("the other side ended it with {other:?}")),
            },
            Error::InvalidMessage(_) => {
                Self::Handshake("the other side does not speak TLS".to_owned())
            }
            other => Self::Handshake(other.to_string()),
        }
    }
}
