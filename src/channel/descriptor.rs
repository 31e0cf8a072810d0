//! What a native agent publishes about itself, so that peers can check it before the first write.

use serde::de::{Deserializer, IgnoredAny};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use super::Geometry;
use crate::fabric::LinkType;
use crate::tls::TlsError;
use crate::wire::{Signature, WIRE_VERSION, any_signatures, names};

/// An agent's description of itself, published as the record `slimerpc` beside its memory regions.
///
/// Unknown fields are ignored, so later versions can add some. A descriptor with more than 4096
/// services, methods of a service or links, or with a name that is empty or longer than 1 KiB, is
/// refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Descriptor {
    /// [`WIRE_VERSION`] of the agent.
    pub wire_version: u32,
    /// Incarnation of the agent under its alias: another number after every restart.
    pub incarnation: u64,
    /// The host and process in which the agent runs.
    pub host: HostId,
    /// Shape of the agent's rings.
    pub geometry: Geometry,
    /// Kinds of links of the agent's devices: those that every release knows. An unknown one makes
    /// a descriptor unreadable.
    #[serde(deserialize_with = "names::list")]
    pub links: Vec<LinkType>,
    /// Further kinds of links of the agent's devices. Those that a reader does not know are
    /// skipped.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "known_links"
    )]
    pub more_links: Vec<LinkType>,
    /// Whether the agent speaks TLS over TCP, and nothing else.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tls: bool,
    /// Tables of the services that the agent serves.
    #[serde(deserialize_with = "names::list")]
    pub services: Vec<ServiceTable>,
    /// Names of the services that are down and will not be restarted.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "names::names"
    )]
    pub down: Vec<String>,
}

/// Identifies the host and the process of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostId {
    /// Contents of `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    /// User id.
    pub uid: u32,
    /// Process id.
    pub pid: u32,
    /// Network namespace, as `/proc/self/ns/net` names it.
    #[serde(default)]
    pub network: String,
}

impl HostId {
    /// Returns whether the two are known to be able to share memory.
    ///
    /// ```
    /// use slimerpc::channel::HostId;
    /// let host = |boot_id: &str, pid| {
    ///     let network = "net:[1]".into();
    ///     HostId { boot_id: boot_id.into(), uid: 1000, pid, network }
    /// };
    /// assert!(host("a", 1).shares_memory_with(&host("a", 2)));
    /// assert!(!host("a", 1).shares_memory_with(&host("b", 2)));
    /// ```
    pub fn shares_memory_with(&self, other: &Self) -> bool {
        // An empty id was written by an agent that could not tell where it runs.
        let is_known = !self.boot_id.is_empty() && !self.network.is_empty();
        is_known
            && self.boot_id == other.boot_id
            && self.uid == other.uid
            && self.network == other.network
    }
}

/// The methods of a service as its server declares them. A method's number is its index in
/// `methods`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceTable {
    /// Name of the service.
    #[serde(deserialize_with = "names::name")]
    pub name: String,
    /// Name of the codec of its payloads.
    #[serde(deserialize_with = "names::name")]
    pub codec: String,
    /// Names of the methods.
    #[serde(deserialize_with = "names::names")]
    pub methods: Vec<String>,
    /// Names of the methods that run beside the others. Callers open a second channel for them.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "names::names"
    )]
    pub parallel: Vec<String>,
    /// Names of the methods that return a stream of items.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "names::names"
    )]
    pub streams: Vec<String>,
    /// The types that each of `methods` takes and returns. Earlier releases publish none.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "any_signatures"
    )]
    pub signatures: Vec<Signature>,
}

/// A method that the caller and the server of a service declare with different types, so that a
/// call of it is refused before it is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("`{method}` is `{ours}` here and `{theirs}` there")]
pub struct MethodMismatch {
    /// Name of the method.
    pub method: String,
    /// Signature of the method at the caller, such as `add(a: i64, b: i64) -> i64`.
    pub ours: String,
    /// Signature of the method at the server.
    pub theirs: String,
}

/// Why two agents, or their versions of a service, do not fit together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum Mismatch {
    /// The agents use different wire versions.
    #[error("wire version: ours is {ours}, theirs is {theirs}; use the same release on both sides")]
    WireVersion {
        /// Version of the agent that found the mismatch.
        ours: u32,
        /// Version of the other agent.
        theirs: u32,
    },
    /// The agents' rings have different shapes.
    #[error(
        "ring geometry: ours is {} slots of {} bytes, theirs is {} slots of {} bytes; \
         set equal slot_size and max_inflight on both sides",
        .ours.slots(), .ours.slot_size(), .theirs.slots(), .theirs.slot_size()
    )]
    Geometry {
        /// Geometry of the agent that found the mismatch.
        ours: Geometry,
        /// Geometry of the other agent.
        theirs: Geometry,
    },
    /// The peer does not serve the service.
    #[error("service table: we want `{wanted}`, they serve {served:?}")]
    NoSuchService {
        /// Name of the service that was requested.
        wanted: String,
        /// Names of the services that the peer serves.
        served: Vec<String>,
    },
    /// The two versions of the service have no method in common.
    #[error(
        "service `{service}`: we know the methods {ours:?}, they have {theirs:?}, none in common"
    )]
    NoCommonMethod {
        /// Name of the service.
        service: String,
        /// Names of the caller's methods.
        ours: Vec<String>,
        /// Names of the server's methods.
        theirs: Vec<String>,
    },
    /// The two versions of the service declare all their common methods with different types.
    #[error("service `{service}`: {}; use the same version of its types on both sides", several(.methods))]
    Types {
        /// Name of the service.
        service: String,
        /// The methods that differ, or the first of many.
        methods: Vec<MethodMismatch>,
    },
    /// Another version of the service is served since the peer's table was read.
    #[error("service `{service}`: another one is served under this name by now; try again")]
    ServiceChanged {
        /// Name of the service.
        service: String,
    },
    /// The two versions of the service use different codecs.
    #[error("service `{service}`: our codec is {ours}, theirs is {theirs}")]
    Codec {
        /// Its name.
        service: String,
        /// Codec of the caller.
        ours: String,
        /// Codec of the server.
        theirs: String,
    },
    /// The peer has been restarted since its descriptor was read.
    #[error(
        "incarnation: the peer has been restarted (meant {meant:#x}, found {found:#x}); try again"
    )]
    Incarnation {
        /// The incarnation that was addressed.
        meant: u64,
        /// The incarnation that answered.
        found: u64,
    },
    /// The agents' devices have no kind of link in common.
    #[error(
        "devices: ours are on {}, theirs on {}{}; {}",
        list(.ours), list(.theirs),
        if *.same_host { "" } else { " (SHM joins processes of one user on one host)" },
        ways_to_join(.ours, .theirs, *.same_host)
    )]
    Link {
        /// Links of the agent that found the mismatch.
        ours: Vec<LinkType>,
        /// Links of the other agent.
        theirs: Vec<LinkType>,
        /// Whether the two are known to be able to share memory.
        same_host: bool,
    },
    /// The agents have no link in common but TCP, where one wants TLS and the other has no
    /// certificates.
    #[error("TLS over TCP: {}", lacking(*.ours))]
    Tls {
        /// Whether it is the agent that found the mismatch which wants TLS.
        ours: bool,
    },
    /// The service is limited to another peer.
    #[error("service `{service}` does not serve `{peer}`, but one other peer alone")]
    NotServed {
        /// Name of the service.
        service: String,
        /// Alias of the caller.
        peer: String,
    },
    /// The rings or queue pairs cannot be connected; the text gives the reason.
    #[error("cannot connect: {0}")]
    Connect(String),
    /// The service has ended and its agent does not restart it.
    #[error("service `{service}` is down")]
    ServiceDown {
        /// Name of the service.
        service: String,
    },
}

/// Reads the links that this release knows.
fn known_links<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<LinkType>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum MaybeKnown {
        Known(LinkType),
        Unknown(IgnoredAny),
    }
    let links = names::list::<MaybeKnown, D>(from)?;
    let known = links.into_iter().filter_map(|link| match link {
        MaybeKnown::Known(link) => Some(link),
        MaybeKnown::Unknown(_) => None,
    });
    Ok(known.collect())
}

fn lacking(is_ours: bool) -> TlsError {
    match is_ours {
        true => TlsError::MissingThere,
        false => TlsError::MissingHere,
    }
}

fn list(links: &[LinkType]) -> String {
    let links: Vec<_> = links.iter().map(LinkType::to_string).collect();
    links.join(", ")
}

/// What either agent may change so that they have a link in common.
fn ways_to_join(ours: &[LinkType], theirs: &[LinkType], same_host: bool) -> String {
    let of_one = |one: &[LinkType], other: &[LinkType]| -> Vec<_> {
        let may_join = |link: &LinkType| same_host || *link != LinkType::Shm;
        let missing = one.iter().filter(|link| !other.contains(link));
        missing.copied().filter(may_join).collect()
    };
    let ways = [
        ("ours", of_one(theirs, ours)),
        ("theirs", of_one(ours, theirs)),
    ];
    let ways = ways.iter().filter(|(_, links)| !links.is_empty());
    let ways: Vec<_> = ways
        .map(|(whose, links)| format!("{whose} on {} as well", list(links)))
        .collect();
    let ways = match ways.is_empty() {
        true => "both on TCP".to_owned(),
        false => ways.join(", or "),
    };
    format!("have {ways} (SLIME_RPC_FABRICS or `fabrics`, SLIME_RPC_DEVICE or `device`)")
}

/// Most methods that an error names; it counts the rest.
const NAMED_METHODS: usize = 8;

fn several(methods: &[MethodMismatch]) -> String {
    let named = methods.iter().take(NAMED_METHODS);
    let mut text = named
        .map(MethodMismatch::to_string)
        .collect::<Vec<_>>()
        .join(", ");
    if let more @ 1.. = methods.len().saturating_sub(NAMED_METHODS) {
        text += &format!(", and {more} more");
    }
    text
}

impl Descriptor {
    /// Name of the record under which descriptors are published.
    pub const RECORD: &'static str = "slimerpc";

    /// Chooses the kind of link for a connection with a peer: the first of `ours` that both have.
    /// Shared memory counts only where memory can be shared, and TCP only where both or neither
    /// speak TLS; `tls` is whether this side does.
    ///
    /// # Errors
    /// [`Mismatch::Link`] or [`Mismatch::Tls`] if there is none.
    pub fn link(&self, ours: &[LinkType], here: &HostId, tls: bool) -> Result<LinkType, Mismatch> {
        let same_host = self.host.shares_memory_with(here);
        let theirs = [&*self.links, &*self.more_links].concat();
        let mut common = ours
            .iter()
            .copied()
            .filter(|link| theirs.contains(link) && (same_host || *link != LinkType::Shm));
        let fits = |link: &LinkType| *link != LinkType::Tcp || self.tls == tls;
        match (common.clone().find(fits), common.next()) {
            (Some(link), _) => Ok(link),
            (None, Some(_)) => Err(Mismatch::Tls { ours: tls }),
            (None, None) => Err(Mismatch::Link {
                ours: ours.to_vec(),
                theirs: theirs.clone(),
                same_host,
            }),
        }
    }

    /// Checks a peer's descriptor before anything is connected, and returns its table of `wanted`,
    /// whose methods are not compared yet.
    ///
    /// # Errors
    /// The first [`Mismatch`], with both sides' values.
    pub fn check_service(
        &self,
        ours: Geometry,
        wanted: &ServiceTable,
    ) -> Result<&ServiceTable, Mismatch> {
        if self.wire_version != WIRE_VERSION {
            return Err(Mismatch::WireVersion {
                ours: WIRE_VERSION,
                theirs: self.wire_version,
            });
        }
        if self.geometry != ours {
            return Err(Mismatch::Geometry {
                ours,
                theirs: self.geometry,
            });
        }
        let theirs = self
            .services
            .iter()
            .find(|service| service.name == wanted.name);
        let Some(theirs) = theirs else {
            let served = self
                .services
                .iter()
                .map(|service| service.name.clone())
                .collect();
            return Err(Mismatch::NoSuchService {
                wanted: wanted.name.clone(),
                served,
            });
        };
        if self.down.contains(&wanted.name) {
            return Err(Mismatch::ServiceDown {
                service: wanted.name.clone(),
            });
        }
        if theirs.codec != wanted.codec {
            return Err(Mismatch::Codec {
                service: wanted.name.clone(),
                ours: wanted.codec.clone(),
                theirs: theirs.codec.clone(),
            });
        }
        Ok(theirs)
    }
}

/// The server's method for a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// The server's number of the method.
    pub number: u32,
    /// Whether the method runs beside others at the server.
    pub is_parallel: bool,
}

/// Most methods that a [`Mismatch::Types`] carries.
const MOST_DIFFERENCES: usize = 64;

impl ServiceTable {
    /// The types of a method; `None` if there is no such method, or an earlier release has made the
    /// table.
    pub fn signature(&self, method: &str) -> Option<&Signature> {
        let at = self.methods.iter().position(|name| name == method)?;
        self.signatures
            .get(at)
            .filter(|signature| signature.is_known())
    }

    /// Returns whether the table has the types of each method. Without them nobody knows whether
    /// the two sides agree.
    pub fn is_typed(&self) -> bool {
        let signatures = self.signatures.get(..self.methods.len());
        signatures.is_some_and(|signatures| signatures.iter().all(Signature::is_known))
    }

    /// How the caller's declaration of a method differs from the server's, as far as both are
    /// known.
    pub fn difference(&self, ours: &Self, method: &str) -> Option<MethodMismatch> {
        let (theirs, ours) = (self.signature(method)?, ours.signature(method)?);
        theirs.differs_from(ours).then(|| {
            let (mut here, mut there) = (ours.to_string(), theirs.to_string());
            if here == there {
                // The texts may differ behind the cut only.
                here += &format!(" [{}]", ours.fingerprint());
                there += &format!(" [{}]", theirs.fingerprint().escape_debug());
            }
            MethodMismatch {
                method: method.to_owned(),
                ours: here,
                theirs: there,
            }
        })
    }

    /// The caller's methods that differ from the server's of the same name.
    pub fn differences(&self, ours: &Self) -> Vec<MethodMismatch> {
        let methods = ours.methods.iter();
        methods
            .filter_map(|method| self.difference(ours, method))
            .collect()
    }

    /// Checks that a caller can call at least one of its methods.
    ///
    /// # Errors
    /// [`Mismatch::NoCommonMethod`] or [`Mismatch::Types`].
    pub fn check_methods(&self, wanted: &Self) -> Result<(), Mismatch> {
        let is_there = |method: &&String| self.methods.contains(method);
        let common = wanted.methods.iter().filter(is_there).count();
        if common == 0 {
            return Err(Mismatch::NoCommonMethod {
                service: wanted.name.clone(),
                ours: wanted.methods.clone(),
                theirs: self.methods.clone(),
            });
        }
        let mut methods = self.differences(wanted);
        if methods.len() == common {
            methods.truncate(MOST_DIFFERENCES);
            return Err(Mismatch::Types {
                service: wanted.name.clone(),
                methods,
            });
        }
        Ok(())
    }

    /// A hash of the table. Callers send it along, because their method numbers refer to the table
    /// that they have read.
    pub fn fingerprint(&self) -> u64 {
        let mut hash = Xxh3::new();
        let mut add = |text: &str| {
            hash.update(&(text.len() as u64).to_le_bytes());
            hash.update(text.as_bytes());
        };
        add(&self.name);
        add(&self.codec);
        for list in [&self.methods, &self.parallel, &self.streams] {
            add(&list.len().to_string());
            list.iter().for_each(|name| add(name));
        }
        // By index: a table of a peer may be long.
        for at in 0..self.methods.len() {
            let signature = self
                .signatures
                .get(at)
                .filter(|signature| signature.is_known());
            add(signature.map_or("", Signature::fingerprint));
        }
        hash.digest()
    }

    /// Finds the server's method for each of the caller's. The result is `None` for methods that
    /// the server does not have, or not in the same form: a method that returns a stream on one
    /// side only, or takes or returns [other types](Self::difference), is not the same. A method
    /// that is added on one side thus never shifts another, and what arrives is what was sent
    /// (TYPE-1).
    pub fn resolve(&self, ours: &Self) -> Vec<Option<Route>> {
        let route = |name: &String| {
            if self.streams.contains(name) != ours.streams.contains(name)
                || self.difference(ours, name).is_some()
            {
                return None;
            }
            let number = self.methods.iter().position(|theirs| theirs == name)?;
            Some(Route {
                number: number as u32,
                is_parallel: self.parallel.contains(name),
            })
        };
        ours.methods.iter().map(route).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::wire::{PayloadCodec, Shape, SignatureBuilder};

    fn table(methods: &[&str]) -> ServiceTable {
        ServiceTable {
            name: "Calc".into(),
            codec: "bincode".into(),
            methods: methods.iter().map(|&m| m.into()).collect(),
            parallel: vec!["mul".into()],
            streams: Vec::new(),
            signatures: Vec::new(),
        }
    }

    #[test]
    fn agents_without_a_common_link_are_told_what_either_would_change() {
        use LinkType::{Roce, Shm, Tcp};
        for (ours, theirs, same_host, ways) in [
            (
                &[Shm][..],
                &[Tcp][..],
                true,
                "ours on TCP as well, or theirs on SHM as well",
            ),
            (&[Shm], &[Roce, Tcp], false, "ours on RoCE, TCP as well"),
            (&[Roce], &[Shm], false, "theirs on RoCE as well"),
            (&[Shm], &[Shm], false, "both on TCP"),
        ] {
            let (ours, theirs) = (ours.to_vec(), theirs.to_vec());
            let said = Mismatch::Link {
                ours,
                theirs,
                same_host,
            }
            .to_string();
            assert!(
                said.contains(&format!("; have {ways} (SLIME_RPC_FABRICS")),
                "{said}"
            );
            assert_eq!(said.contains("one user on one host"), !same_host);
        }
    }

    fn descriptor() -> Descriptor {
        Descriptor {
            wire_version: WIRE_VERSION,
            incarnation: 1,
            host: HostId {
                boot_id: "a boot".into(),
                uid: 0,
                pid: 1,
                network: "net:[1]".into(),
            },
            links: vec![LinkType::Shm],
            more_links: Vec::new(),
            tls: false,
            geometry: Geometry::new(16, 1024).unwrap(),
            services: vec![table(&["add", "mul"])],
            down: Vec::new(),
        }
    }

    #[test]
    fn a_method_added_on_one_side_never_shifts_another() {
        let theirs = table(&["abs", "add", "mul"]);
        let ours = table(&["add", "div", "mul"]);
        let route = |number, is_parallel| {
            Some(Route {
                number,
                is_parallel,
            })
        };
        assert_eq!(
            theirs.resolve(&ours),
            [route(1, false), None, route(2, true)]
        );
    }

    #[test]
    fn input_1_a_descriptor_of_too_much_is_refused() {
        let read = |change: &dyn Fn(&mut Descriptor)| {
            let mut published = descriptor();
            change(&mut published);
            let text = serde_json::to_string(&published).unwrap();
            let read = serde_json::from_str::<Descriptor>(&text);
            assert!(read.as_ref().is_ok_and(|read| *read == published) || read.is_err());
            read.map(drop).map_err(|error| error.to_string())
        };
        let names = |count: usize| vec!["m".to_owned(); count];
        assert_eq!(read(&|it| it.services[0].methods = names(4096)), Ok(()));
        let too_long: [&dyn Fn(&mut Descriptor); 7] = [
            &|it| it.more_links = vec![LinkType::Tcp; 4097],
            &|it| it.services[0].methods = names(4097),
            &|it| it.services[0].parallel = names(4097),
            &|it| it.services[0].streams = names(4097),
            &|it| it.services = vec![table(&[]); 4097],
            &|it| it.links = vec![LinkType::Shm; 4097],
            &|it| it.down = names(4097),
        ];
        for change in too_long {
            let refused = read(change).unwrap_err();
            assert!(refused.contains("a list of more than 4096"), "{refused}");
        }
        for wrong in [String::new(), "m".repeat(1025)] {
            let refused = read(&|it| it.services[0].methods[0] = wrong.clone()).unwrap_err();
            assert!(refused.contains("not of 1 to 1024"), "{refused}");
            read(&|it| it.services[0].name = wrong.clone()).unwrap_err();
            read(&|it| it.down = vec![wrong.clone()]).unwrap_err();
        }
        // Of signatures a peer may say anything.
        let signed = |count| {
            let table = typed(table(&["add"]), vec![signature::<u8>("add", 1); count]);
            let text = serde_json::to_string(&table).unwrap();
            serde_json::from_str::<ServiceTable>(&text)
                .unwrap()
                .signatures
                .len()
        };
        assert_eq!((signed(1), signed(4096), signed(4097)), (1, 4096, 0));
    }

    #[test]
    fn a_stream_on_one_side_only_is_another_method() {
        let streaming = ServiceTable {
            streams: vec!["add".into()],
            ..table(&["add", "mul"])
        };
        let plain = table(&["add", "mul"]);
        for (theirs, ours) in [(&streaming, &plain), (&plain, &streaming)] {
            let routes = theirs.resolve(ours);
            assert!(routes[0].is_none() && routes[1].is_some(), "{routes:?}");
        }
        assert!(streaming.resolve(&streaming)[0].is_some());
    }

    fn typed(table: ServiceTable, signatures: Vec<Signature>) -> ServiceTable {
        ServiceTable {
            signatures,
            ..table
        }
    }

    /// A signature with as many arguments.
    fn signature<T: serde::de::DeserializeOwned>(method: &str, arguments: usize) -> Signature {
        let (byte, output) = (shape::<u8>(), shape::<T>());
        let first = Signature::of(method).argument("first", &byte);
        let more = |builder: SignatureBuilder, _| builder.argument("another_one", &byte);
        (1..arguments).fold(first, more).returns(&output)
    }

    fn shape<T: serde::de::DeserializeOwned>() -> Shape {
        Shape::of::<T>(PayloadCodec::Bincode)
    }

    #[test]
    fn type_1_a_method_of_other_types_has_no_route_and_one_of_unknown_types_has() {
        let table = || table(&["add", "mul"]);
        let ours = typed(
            table(),
            vec![signature::<u8>("add", 1), signature::<u8>("mul", 1)],
        );
        let theirs = typed(
            table(),
            vec![signature::<u8>("add", 1), signature::<i8>("mul", 1)],
        );
        let routes = theirs.resolve(&ours);
        assert!(routes[0].is_some() && routes[1].is_none(), "{routes:?}");
        let difference = theirs.difference(&ours, "mul").unwrap();
        assert_eq!(difference.ours, "mul(first: u8) -> u8");
        assert_eq!(difference.theirs, "mul(first: u8) -> i8");
        assert!(theirs.check_methods(&ours).is_ok());

        let mut partly = theirs.clone();
        partly.signatures.pop();
        for (theirs, ours) in [(&table(), &ours), (&ours, &table()), (&partly, &ours)] {
            assert!(theirs.resolve(ours).iter().all(Option::is_some));
        }
        assert!(ours.is_typed() && !partly.is_typed() && !table().is_typed());

        let one = typed(self::table(&["mul"]), vec![signature::<u16>("mul", 1)]);
        let refused = theirs.check_methods(&one).unwrap_err();
        let text = refused.to_string();
        assert!(text.contains("-> u16") && text.contains("-> i8"), "{text}");
        // Every table is another: callers say which one they have read.
        let tables = [table(), ours, theirs, partly, one];
        let prints = tables.iter().map(ServiceTable::fingerprint);
        assert_eq!(prints.collect::<std::collections::HashSet<_>>().len(), 5);
    }

    #[test]
    fn a_difference_behind_the_cut_of_a_long_signature_shows() {
        let of = |signature| typed(table(&["add"]), vec![signature]);
        let (ours, theirs) = (
            of(signature::<u8>("add", 60)),
            of(signature::<i8>("add", 60)),
        );
        let difference = theirs.difference(&ours, "add").unwrap();
        assert_ne!(difference.ours, difference.theirs);
        assert!(difference.ours.len() < 600, "{}", difference.ours);
    }

    #[test]
    fn shared_memory_is_for_one_host_and_other_links_for_any() {
        let theirs = Descriptor {
            links: vec![LinkType::Shm, LinkType::Roce],
            ..descriptor()
        };
        let (here, both) = (theirs.host.clone(), [LinkType::Shm, LinkType::Roce]);
        let elsewhere = HostId {
            boot_id: "other".into(),
            ..here.clone()
        };
        assert_eq!(theirs.link(&both, &here, false), Ok(LinkType::Shm));
        assert_eq!(theirs.link(&both, &elsewhere, false), Ok(LinkType::Roce));
        assert_eq!(
            theirs.link(&[LinkType::Roce], &here, false),
            Ok(LinkType::Roce)
        );
        // What neither knows is not the same.
        let unknown = |boot_id: &str, network: &str| HostId {
            boot_id: boot_id.into(),
            network: network.into(),
            ..here.clone()
        };
        for host in [unknown("", "net:[1]"), unknown("a boot", "")] {
            let (theirs, host) = (
                Descriptor {
                    host: host.clone(),
                    ..theirs.clone()
                },
                host,
            );
            assert_eq!(theirs.link(&both, &host, false), Ok(LinkType::Roce));
        }
        let error = theirs
            .link(&[LinkType::Shm], &elsewhere, false)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("ours are on SHM") && error.contains("SHM, RoCE"),
            "{error}"
        );
    }

    #[test]
    fn a_kind_of_link_that_a_reader_does_not_know_is_skipped() {
        let mut published = serde_json::to_value(descriptor()).unwrap();
        assert!(published.get("more_links").is_none(), "{published}");
        published["more_links"] = serde_json::json!(["CXL", {"of": 2}, 3, "TCP"]);
        let read: Descriptor = serde_json::from_value(published).unwrap();
        assert_eq!(read.more_links, [LinkType::Tcp]);
        let elsewhere = HostId {
            boot_id: "other".into(),
            ..read.host.clone()
        };
        let ours = [LinkType::Shm, LinkType::Tcp];
        assert_eq!(read.link(&ours, &read.host, false), Ok(LinkType::Shm));
        assert_eq!(read.link(&ours, &elsewhere, false), Ok(LinkType::Tcp));
        let refused = read.link(&[LinkType::Roce], &elsewhere, false).unwrap_err();
        assert!(refused.to_string().contains("SHM, TCP"), "{refused}");
    }

    #[test]
    fn every_mismatch_names_both_values() {
        let ours = Geometry::new(16, 1024).unwrap();
        let good = descriptor();
        assert!(good.check_service(ours, &table(&["add"])).is_ok());

        let old = Descriptor {
            wire_version: 77,
            ..descriptor()
        };
        let text = old
            .check_service(ours, &table(&["add"]))
            .unwrap_err()
            .to_string();
        assert!(
            text.contains("77") && text.contains(&WIRE_VERSION.to_string()),
            "{text}"
        );

        let text = good
            .check_service(Geometry::new(8, 2048).unwrap(), &table(&["add"]))
            .unwrap_err()
            .to_string();
        assert!(
            text.contains("8 slots of 2048") && text.contains("16 slots of 1024"),
            "{text}"
        );

        let other = ServiceTable {
            name: "Clock".into(),
            ..table(&["add"])
        };
        let text = good.check_service(ours, &other).unwrap_err().to_string();
        assert!(text.contains("Clock") && text.contains("Calc"), "{text}");

        let theirs = good.check_service(ours, &table(&["sub"])).unwrap();
        let text = theirs.check_methods(&table(&["sub"]));
        let text = text.unwrap_err().to_string();
        assert!(text.contains("sub") && text.contains("add"), "{text}");

        let pickled = ServiceTable {
            codec: "pickle".into(),
            ..table(&["add"])
        };
        let text = good.check_service(ours, &pickled).unwrap_err().to_string();
        assert!(
            text.contains("pickle") && text.contains("bincode"),
            "{text}"
        );
    }

    #[test]
    fn a_service_that_is_down_is_refused_as_such_and_others_are_not() {
        let ours = Geometry::new(16, 1024).unwrap();
        let mut theirs = descriptor();
        let other = ServiceTable {
            name: "Clock".into(),
            ..table(&["add"])
        };
        theirs.services.push(other.clone());
        theirs.down.push("Calc".into());
        let service = "Calc".to_owned();
        let refused = theirs.check_service(ours, &table(&["add"])).unwrap_err();
        assert_eq!(refused, Mismatch::ServiceDown { service });
        assert_eq!(theirs.check_service(ours, &other), Ok(&other));
        // Earlier releases publish no such list, and nothing changes for them.
        let text = serde_json::to_string(&descriptor()).unwrap();
        assert!(!text.contains("down"), "{text}");
        assert_eq!(
            serde_json::from_str::<Descriptor>(&text).unwrap(),
            descriptor()
        );
    }
}
