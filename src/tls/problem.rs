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
    /// The peer has certificates, and this agent has none.
    #[error(
        "it wants TLS, for which this agent lacks files: set SLIME_RPC_TLS_CERT, SLIME_RPC_TLS_KEY and SLIME_RPC_TLS_CA \
         here, or `tls`"
    )]
    MissingHere,
    /// This agent has certificates, and the peer has none.
    #[error(
        "this agent wants TLS, for which the other lacks files: set SLIME_RPC_TLS_CERT, SLIME_RPC_TLS_KEY and \
         SLIME_RPC_TLS_CA there, or `tls`"
    )]
    MissingThere,
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

/// A certificate does not name whom it should.
#[cfg(feature = "tls")]
#[derive(Debug, thiserror::Error)]
#[error("it is for {named}, not for {expected}")]
pub(crate) struct NotNamed {
    named: String,
    expected: String,
}

#[cfg(feature = "tls")]
impl NotNamed {
    /// Most names that are told, and characters of each.
    const MOST: usize = 4;
    const LONGEST: usize = 80;

    pub(crate) fn new<'a>(expected: &str, named: impl Iterator<Item = &'a str>) -> Self {
        let shown = |name: &str| -> String {
            let name = name.chars().take(Self::LONGEST);
            name.flat_map(char::escape_debug).collect()
        };
        let named: Vec<_> = named.take(Self::MOST).map(shown).collect();
        Self {
            named: match &*named {
                [] => "no name of this kind".to_owned(),
                named => named.join(", "),
            },
            expected: expected.to_owned(),
        }
    }
}

impl TlsError {
    /// What an error of an encrypted stream is, if it is one of TLS.
    #[cfg(feature = "tls")]
    pub(crate) fn of_stream(error: &std::io::Error) -> Option<Self> {
        let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
        Some(error.into())
    }

    #[cfg(not(feature = "tls"))]
    pub(crate) fn of_stream(_: &std::io::Error) -> Option<Self> {
        None
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
                CertificateError::Other(other) if other.0.is::<NotNamed>() => {
                    CertificateProblem::WrongName(other.0.to_string())
                }
                other => CertificateProblem::Other(other.to_string()),
            }),
            Error::AlertReceived(alert) => match alert {
                // Which of the two the other side says depends on the names of the authorities.
                Alert::UnknownCA | Alert::DecryptError => {
                    Self::Ours(CertificateProblem::UnknownAuthority)
                }
                Alert::CertificateExpired => Self::Ours(CertificateProblem::Expired),
                Alert::CertificateRequired => Self::Ours(CertificateProblem::Missing),
                // The last is what our own peers say, and only then.
                Alert::BadCertificate | Alert::CertificateUnknown => {
                    Self::Ours(CertificateProblem::WrongName(String::new()))
                }
                Alert::UnsupportedCertificate => Self::Ours(CertificateProblem::Purpose),
                Alert::CertificateRevoked => {
                    Self::Ours(CertificateProblem::Other("it is revoked".to_owned()))
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
