//! How to log in to Redis, which NanoCtrl does not pass on.

use redis::{
    Client, ConnectionAddr, IntoConnectionInfo, ProtocolVersion, RedisConnectionInfo, RedisResult,
};

use super::address::Address;
use crate::control::{ControlError, Secret};

/// Stands for the host while a URL without one is parsed (RFC 2606 reserves this name).
const LEFT_OUT: &str = "left-out.invalid";

/// What is known of Redis beyond what NanoCtrl says: the login, the database, whether to use TLS,
/// and possibly the address.
#[derive(Clone, Default)]
pub(super) struct Access {
    /// The address that replaces the one of NanoCtrl.
    pub(super) address: Option<Address>,
    is_tls: bool,
    login: RedisConnectionInfo,
}

impl Access {
    /// Reads `redis[s]://[[user]:password@][host[:port]][/database]`.
    pub(super) fn parse(url: &Secret) -> Result<Self, ControlError> {
        let (scheme, rest) = url
            .expose()
            .split_once("://")
            .filter(|(scheme, _)| matches!(*scheme, "redis" | "rediss"))
            .ok_or_else(|| refused("it does not begin with redis:// or rediss://"))?;
        let is_tls = scheme == "rediss";
        if is_tls && !cfg!(feature = "tls") {
            return Err(refused("rediss:// needs the cargo feature `tls`"));
        }
        if rest.contains('#') {
            return Err(refused("it has a part after `#`, where nothing is meant"));
        }
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let host_at = authority.rfind('@').map_or(0, |at| at + 1);
        let (login, host) = authority.split_at(host_at);
        let given = (!host.is_empty()).then_some(host);
        let whole = format!("redis://{login}{}{path}", given.unwrap_or(LEFT_OUT));
        // The errors of this parser do not repeat their input.
        let read = whole.into_connection_info();
        let info = read.map_err(|error| refused(error.to_string()))?;
        let address = match info.addr() {
            ConnectionAddr::Tcp(host, port) if given.is_some() => Some(Address::new(host, *port)),
            _ => None,
        };
        Ok(Self {
            address,
            is_tls,
            login: info.redis_settings().clone(),
        })
    }

    /// A client for the Redis at `address`; it connects to nothing yet.
    pub(super) fn client(&self, address: &Address) -> RedisResult<Client> {
        let login = self.login.clone();
        let login = login
            .set_protocol(ProtocolVersion::RESP2)
            .set_skip_set_lib_name();
        let info = address.within(self.is_tls).into_connection_info()?;
        Client::open(info.set_redis_settings(login))
    }
}

/// Shows neither user nor password.
impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access")
            .field("address", &self.address)
            .field("is_tls", &self.is_tls)
            .finish_non_exhaustive()
    }
}

fn refused(reason: impl Into<String>) -> ControlError {
    ControlError::BadSetting {
        what: "Redis URL",
        reason: reason.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str) -> (Option<String>, Option<String>, Option<String>, i64) {
        let access = Access::parse(&url.into()).expect(url);
        let (user, password) = (access.login.username(), access.login.password());
        (
            access.address.map(|address| address.to_string()),
            user.map(str::to_owned),
            password.map(str::to_owned),
            access.login.db(),
        )
    }

    #[test]
    fn every_part_of_a_url_may_be_left_out() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(read("redis://"), (None, None, None, 0));
        assert_eq!(read("redis://:pw@"), (None, None, some("pw"), 0));
        assert_eq!(read("redis:///3"), (None, None, None, 3));
        assert_eq!(read("redis://h"), (some("h:6379"), None, None, 0));
        assert_eq!(
            read("redis://u:p%40%2Fw@[::1]:7000/2"),
            (some("[::1]:7000"), some("u"), some("p@/w"), 2)
        );
        assert_eq!(read("redis://u:pw@/2"), (None, some("u"), some("pw"), 2));
    }

    #[test]
    fn input_1_urls_that_cannot_work_are_refused_without_telling_the_password() {
        for url in [
            "",
            "h:6379",
            "http://u:hunter2@h",
            "redis://u:hunter2@h:x",
            "redis://u:hunter2@h/two",
            "redis://u:hunter2@h/-99999999999999999999",
            "redis://u:hunter2@h#insecure",
            "redis://u:hunter2@a b",
            "redis://u:hunter2@0.0.0.0",
            "unix:///run/redis?pass=hunter2",
        ] {
            let error = Access::parse(&url.into()).expect_err(url);
            assert!(matches!(error, ControlError::BadSetting { .. }), "{url}");
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
        let access = Access::parse(&"redis://hunter1:hunter2@h".into());
        assert!(!format!("{access:?}").contains("hunter"), "{access:?}");
    }

    #[test]
    fn tls_is_understood_or_refused_by_the_name_of_its_feature() {
        match Access::parse(&"rediss://".into()) {
            Ok(access) => assert!(access.is_tls && cfg!(feature = "tls")),
            Err(error) => assert!(error.to_string().contains("feature `tls`"), "{error}"),
        }
    }
}
