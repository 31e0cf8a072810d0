//! A service that discovery has found.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use slimerpc::channel::{MethodMismatch, Mismatch, ServiceTable};
use slimerpc::control::{ServiceRecord, natural_order};
use slimerpc::wire::WIRE_VERSION;

use crate::Service;
use crate::agent::supervisor::Registered;

/// A service that accepts any caller, as discovery found it: by
/// [`PeerAgent::discover`](crate::PeerAgent::discover) and its kin.
///
/// ```no_run
/// # use slimerpc_actors::{AgentError, PeerAgent, service};
/// # struct Calc;
/// # #[service]
/// # impl Calc {
/// #     #[method]
/// #     fn add(&mut self, a: i64, b: i64) -> i64 {
/// #         a + b
/// #     }
/// # }
/// # async fn example(agent: PeerAgent) -> Result<(), AgentError> {
/// for service in agent.discover::<Calc>().await? {
///     println!("{service}: {:?}, {:?}", service.methods(), service.compatibility());
///     let calc = agent.proxy_named::<Calc>(service.alias(), service.name()).await?;
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct ServiceInstance {
    record: Arc<ServiceRecord>,
    compatibility: Compatibility,
}

/// How well a discovered service fits the version of it that this program declares.
///
/// ```no_run
/// # use slimerpc_actors::{Compatibility, ServiceInstance};
/// # fn example(service: ServiceInstance) {
/// match service.compatibility() {
///     Compatibility::Full => println!("{service} is of our release"),
///     Compatibility::Lacks { methods } => println!("{service} is older: no {methods:?}"),
///     Compatibility::Differs { methods } => println!("{service} is another version: {methods:?}"),
///     Compatibility::Not(mismatch) => println!("{service} cannot be called: {mismatch}"),
/// }
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compatibility {
    /// The service has every method, with the same types.
    Full,
    /// The service lacks some methods: calls of these end with
    /// [`MethodNotFound`](crate::RpcError::MethodNotFound).
    Lacks {
        /// The methods that this program declares and the service does not have, in code-point
        /// order.
        methods: Vec<String>,
    },
    /// The service declares some methods with other types: calls of these end with
    /// [`MethodMismatch`](crate::RpcError::MethodMismatch). The service may also lack methods.
    Differs {
        /// The methods that differ, as both sides declare them.
        methods: Vec<MethodMismatch>,
    },
    /// The service does not fit at all: a proxy for it would be refused.
    Not(Mismatch),
}

impl ServiceInstance {
    fn new<S: Service + ?Sized>(record: Arc<ServiceRecord>) -> Self {
        let compatibility = compatibility_of::<S>(&record);
        Self {
            record,
            compatibility,
        }
    }

    /// Alias of the agent that serves this instance.
    pub fn alias(&self) -> &str {
        &self.record.alias
    }

    /// Name under which it is served: the service type's own, or [another](crate::Serve::named).
    pub fn name(&self) -> &str {
        &self.record.name
    }

    /// Names of the service's methods, in code-point order.
    pub fn methods(&self) -> &[String] {
        &self.record.methods
    }

    /// Incarnation of the agent that serves it: another number after every restart of the agent.
    pub fn incarnation(&self) -> u64 {
        self.record.incarnation
    }

    /// Returns whether the service is on this host.
    pub fn is_on_this_host(&self) -> bool {
        self.record.is_on_this_host()
    }

    /// Returns how well the service fits the version that discovery was asked for.
    pub fn compatibility(&self) -> &Compatibility {
        &self.compatibility
    }

    /// Returns whether all methods can be called.
    pub(crate) fn is_full(&self) -> bool {
        self.compatibility == Compatibility::Full
    }
}

fn compatibility_of<S: Service + ?Sized>(theirs: &ServiceRecord) -> Compatibility {
    if theirs.wire_version != WIRE_VERSION {
        return Compatibility::Not(Mismatch::WireVersion {
            ours: WIRE_VERSION,
            theirs: theirs.wire_version,
        });
    }
    if theirs.codec != S::CODEC.name() {
        return Compatibility::Not(Mismatch::Codec {
            service: theirs.name.clone(),
            ours: S::CODEC.name().to_owned(),
            theirs: theirs.codec.clone(),
        });
    }
    let ours = || S::METHODS.iter().map(|&method| method.to_owned());
    let lacking: Vec<_> = ours()
        .filter(|method| !theirs.methods.contains(method))
        .collect();
    let table = |methods, signatures| ServiceTable {
        name: theirs.name.clone(),
        codec: theirs.codec.clone(),
        methods,
        parallel: Vec::new(),
        streams: Vec::new(),
        signatures,
    };
    let wanted = table(ours().collect(), S::signatures().to_vec());
    let methods = table(theirs.methods.clone(), theirs.signatures.clone()).differences(&wanted);
    if !methods.is_empty() && methods.len() + lacking.len() == S::METHODS.len() {
        Compatibility::Not(Mismatch::Types {
            service: theirs.name.clone(),
            methods,
        })
    } else if !methods.is_empty() {
        Compatibility::Differs { methods }
    } else if lacking.is_empty() {
        Compatibility::Full
    } else if lacking.len() < S::METHODS.len() {
        Compatibility::Lacks { methods: lacking }
    } else {
        Compatibility::Not(Mismatch::NoCommonMethod {
            service: theirs.name.clone(),
            ours: ours().collect(),
            theirs: theirs.methods.clone(),
        })
    }
}

/// The live services of type `S` among the registered ones, by alias and name in natural order.
///
/// Services of an earlier incarnation of an agent that has come back (FENCE-1) are left out, and so
/// are those of a process of this host that has ended: both stay registered until they expire.
pub(crate) fn live<S: Service + ?Sized>(registered: &Registered) -> Vec<ServiceInstance> {
    let mut newest: HashMap<&str, &ServiceRecord> = HashMap::new();
    for record in registered.values() {
        let held = newest.entry(&record.alias).or_insert(record);
        if record.since > held.since {
            *held = record;
        }
    }
    let is_of_living = |record: &&Arc<ServiceRecord>| {
        record.type_name == S::NAME
            && newest[&*record.alias].incarnation == record.incarnation
            && !record.is_gone()
    };
    let records = registered.values().filter(is_of_living).cloned();
    let mut live: Vec<_> = records.map(ServiceInstance::new::<S>).collect();
    live.sort_by(|a, b| {
        natural_order(a.alias(), b.alias())
            .then_with(|| natural_order(a.name(), b.name()))
            .then_with(|| b.record.since.cmp(&a.record.since))
    });
    // A service that was stopped and is served again may be registered twice for a moment; the
    // newest registration comes first.
    live.dedup_by(|a, b| a.alias() == b.alias() && a.name() == b.name());
    live
}

impl fmt::Display for ServiceInstance {
    /// Writes `alias/name`, and what does not fit.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.alias(), self.name())?;
        match &self.compatibility {
            Compatibility::Full => Ok(()),
            Compatibility::Lacks { methods } => write!(f, " (lacks {})", methods.join(", ")),
            Compatibility::Differs { methods } => {
                let methods: Vec<_> = methods.iter().map(MethodMismatch::to_string).collect();
                write!(f, " ({})", methods.join(", "))
            }
            Compatibility::Not(mismatch) => write!(f, " ({mismatch})"),
        }
    }
}

impl fmt::Debug for ServiceInstance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceInstance")
            .field("alias", &self.alias())
            .field("name", &self.name())
            .field("methods", &self.methods())
            .field("incarnation", &format_args!("{:#x}", self.incarnation()))
            .field("compatibility", &self.compatibility)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Caller;
    use slimerpc::wire::PayloadCodec;

    struct Calc;

    impl Service for Calc {
        const NAME: &'static str = "Calc";
        const METHODS: &'static [&'static str] = &["add", "mul"];
        const PARALLEL: &'static [bool] = &[false, false];
        const STREAMS: &'static [bool] = &[false, false];
        const CODEC: PayloadCodec = PayloadCodec::Bincode;
        type Client = Caller;
    }

    fn record(alias: &str, since: u64) -> ServiceRecord {
        ServiceRecord {
            alias: alias.to_owned(),
            incarnation: 1,
            name: "Calc".to_owned(),
            type_name: "Calc".to_owned(),
            methods: vec!["add".to_owned(), "mul".to_owned(), "sub".to_owned()],
            signatures: Vec::new(),
            codec: Calc::CODEC.name().to_owned(),
            wire_version: WIRE_VERSION,
            since,
            process: ServiceRecord::this_process(),
        }
    }

    fn found(records: impl IntoIterator<Item = ServiceRecord>) -> Vec<ServiceInstance> {
        let ids = (0..).map(|id: u32| id.to_string());
        let registered = ids.zip(records.into_iter().map(Arc::new)).collect();
        live::<Calc>(&registered)
    }

    fn one(record: ServiceRecord) -> Compatibility {
        found([record])[0].compatibility().clone()
    }

    #[test]
    fn a_service_fits_as_far_as_its_table_goes() {
        assert_eq!(one(record("w", 1)), Compatibility::Full);
        let part = ServiceRecord {
            methods: vec!["add".to_owned()],
            ..record("w", 1)
        };
        let methods = vec!["mul".to_owned()];
        assert_eq!(one(part.clone()), Compatibility::Lacks { methods });
        assert_eq!(found([part])[0].to_string(), "w/Calc (lacks mul)");
        let nothing = ServiceRecord {
            methods: vec!["sub".to_owned()],
            ..record("w", 1)
        };
        assert!(matches!(
            one(nothing),
            Compatibility::Not(Mismatch::NoCommonMethod { .. })
        ));
        let pickled = ServiceRecord {
            codec: "pickle".to_owned(),
            ..record("w", 1)
        };
        assert!(matches!(
            one(pickled),
            Compatibility::Not(Mismatch::Codec { .. })
        ));
        let later = ServiceRecord {
            wire_version: WIRE_VERSION + 1,
            ..record("w", 1)
        };
        assert!(matches!(
            one(later),
            Compatibility::Not(Mismatch::WireVersion { .. })
        ));
    }

    #[test]
    fn fence_1_services_of_an_earlier_life_are_not_found() {
        let next_life = ServiceRecord {
            incarnation: 2,
            type_name: "Clock".to_owned(),
            name: "Clock".to_owned(),
            ..record("w:0", 7)
        };
        let found = found([record("w:0", 5), next_life, record("w:1", 5)]);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].alias(), "w:1");
    }

    #[test]
    fn a_service_that_is_served_again_is_found_once_as_it_is_now() {
        let mut again = record("w", 6);
        again.methods.push("pow".to_owned());
        let found = found([record("w", 5), again.clone(), record("w", 4)]);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].methods(), again.methods);
    }

    #[test]
    fn services_are_found_in_the_order_in_which_people_count() {
        let second = ServiceRecord {
            name: "second".to_owned(),
            ..record("w:2", 1)
        };
        let found = found([record("w:10", 1), second, record("w:2", 1)]);
        let names: Vec<_> = found.iter().map(ToString::to_string).collect();
        assert_eq!(names, ["w:2/Calc", "w:2/second", "w:10/Calc"]);
    }
}
