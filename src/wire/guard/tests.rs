#![allow(clippy::unwrap_used)]
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::fmt::Debug;
use std::thread;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::wire::CodecLimits;
use crate::wire::PayloadCodec::{self, Bincode, Pickle};

const CODECS: [PayloadCodec; 2] = [Bincode, Pickle];

/// What comes of a value that travels.
fn travel<T: Serialize, U: DeserializeOwned>(codec: PayloadCodec, value: &T) -> Result<U, String> {
    let bytes = codec
        .encode_to_vec(value)
        .map_err(|error| format!("encode: {error}"))?;
    codec
        .decode(&bytes)
        .map_err(|error| format!("decode: {error}"))
}

/// It comes back, or is refused by a text with `why` in it.
#[track_caller]
fn same_or_refused<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T, why: &str) {
    match travel::<T, T>(Bincode, value) {
        Ok(back) => assert_eq!(back, *value),
        Err(error) => assert!(error.contains(why), "{value:?}: {error}"),
    }
}

#[track_caller]
fn same<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T) {
    assert_eq!(travel::<T, T>(Bincode, value).as_ref(), Ok(value));
}

#[track_caller]
fn refused<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T, why: &str) {
    let error = travel::<T, T>(Bincode, value).unwrap_err();
    assert!(error.contains(why), "{value:?}: {error}");
}

mod depth {
    use super::*;

    #[derive(Debug, Serialize, Deserialize)]
    enum Tree {
        Leaf,
        Node(Box<Tree>),
    }

    #[derive(Debug, Serialize, Deserialize)]
    struct Chain {
        next: Option<Box<Chain>>,
    }

    #[derive(Debug, Default, Serialize, Deserialize)]
    struct Nest(Vec<Nest>);

    #[derive(Debug, Serialize, Deserialize)]
    struct Directory {
        name: String,
        size: [u64; 8],
        entries: BTreeMap<String, Directory>,
    }

    #[derive(Debug, Serialize, Deserialize)]
    enum Expression {
        Number(i64),
        Call {
            function: String,
            arguments: Vec<Expression>,
        },
        Pair(Box<Expression>, Box<Expression>),
    }

    /// A value that stands in itself so often; dropped without recursion.
    fn nested<T>(levels: usize, innermost: T, around: impl Fn(T) -> T) -> T {
        (0..levels).fold(innermost, |inner, _| around(inner))
    }

    fn tree(levels: usize) -> Tree {
        nested(levels, Tree::Leaf, |inner| Tree::Node(Box::new(inner)))
    }

    /// The bytes of a tree of so many levels, which we would not write.
    fn tree_bytes(codec: PayloadCodec, levels: usize) -> Vec<u8> {
        match codec {
            Bincode => {
                let mut bytes = vec![1; levels];
                bytes.push(0);
                bytes
            }
            Pickle => {
                let mut bytes = b"\x80\x04".to_vec();
                bytes.extend(b"}\x8c\x04Node".repeat(levels));
                bytes.extend(b"\x8c\x04Leaf");
                bytes.resize(bytes.len() + levels, b's');
                bytes.push(b'.');
                bytes
            }
        }
    }

    #[test]
    fn input_1_a_deep_value_is_refused_when_it_is_read() {
        for codec in CODECS {
            for levels in [300, 20_000, 1_000_000] {
                let error = codec
                    .decode::<Tree>(&tree_bytes(codec, levels))
                    .unwrap_err();
                assert!(error.to_string().contains("more than 128 deep"), "{error}");
            }
            // A reader sees nothing wrong with this but the shape, which is not there.
            let read = codec.decode::<Tree>(&tree_bytes(codec, 100)).map(drop);
            assert_eq!(read.is_ok(), codec == Pickle, "{read:?}");
            // Whatever a peer says that it sends: one that takes no bytes at all, too.
            let error = codec.decode::<Nest>(&[1; 20_000]).unwrap_err();
            assert!(
                codec == Pickle || error.to_string().contains("deep"),
                "{error}"
            );
        }
        #[derive(Debug, Deserialize)]
        struct Endless {
            _next: Box<Endless>,
        }
        let error = Bincode.decode::<Endless>(&[]).unwrap_err();
        assert!(error.to_string().contains("deep"), "{error}");
    }

    #[test]
    fn input_1_a_deep_value_is_refused_when_it_is_written() {
        // Dropping it recurses.
        let deep = thread::Builder::new().stack_size(256 << 20);
        let write = || {
            let trees = tree(100_000);
            for codec in CODECS {
                let error = codec
                    .encode(&trees, &mut [0; 1000])
                    .unwrap_err()
                    .to_string();
                assert!(error.contains("more than 128 deep"), "{error}");
                let error = codec.encode_to_vec(&trees).unwrap_err().to_string();
                assert!(error.contains("more than 128 deep"), "{error}");
            }
        };
        deep.spawn(write).unwrap().join().unwrap();
    }

    /// On a thread of 2 MiB, as this is.
    #[test]
    fn what_is_as_deep_as_is_allowed_travels() {
        for codec in CODECS {
            let levels = CodecLimits::default().depth;
            travel::<_, Tree>(codec, &tree(levels)).unwrap();
            travel::<_, Tree>(codec, &tree(levels + 1)).unwrap_err();
            let chain = nested(levels / 2 - 1, Chain { next: None }, |inner| Chain {
                next: Some(Box::new(inner)),
            });
            travel::<_, Chain>(codec, &chain).unwrap();
            let nest = nested(levels - 1, Nest::default(), |inner| Nest(vec![inner]));
            travel::<_, Nest>(codec, &nest).unwrap();
            let empty = || Directory {
                name: "d".to_owned(),
                size: [0; 8],
                entries: BTreeMap::new(),
            };
            let directory = nested(levels / 2 - 1, empty(), |inner| Directory {
                entries: [("in".to_owned(), inner)].into(),
                ..empty()
            });
            travel::<_, Directory>(codec, &directory).unwrap();
            let expression = nested(levels / 2 - 1, Expression::Number(1), |inner| {
                Expression::Call {
                    function: "f".to_owned(),
                    arguments: vec![inner],
                }
            });
            travel::<_, Expression>(codec, &expression).unwrap();
            let expression = nested(levels - 1, Expression::Number(1), |inner| {
                Expression::Pair(Box::new(inner), Box::new(Expression::Number(1)))
            });
            travel::<_, Expression>(codec, &expression).unwrap();
        }
    }

    /// Frames of a user's types may be of any size.
    #[test]
    fn input_1_levels_that_take_much_stack_are_refused_before_it_is_spent() {
        #[derive(Serialize, Deserialize)]
        struct Wide {
            numbers: [[u64; 32]; 32],
            next: Option<Box<Wide>>,
        }
        let wide = || {
            Box::new(Wide {
                numbers: [[1; 32]; 32],
                next: None,
            })
        };
        for codec in CODECS {
            let mut chain = wide();
            for _ in 0..60 {
                let next = Some(chain);
                chain = wide();
                chain.next = next;
            }
            let bytes = codec.encode_to_vec(&*chain).unwrap();
            match codec.decode::<Wide>(&bytes) {
                Ok(back) => assert_eq!(back.numbers, chain.numbers),
                Err(error) => assert!(error.to_string().contains("bytes of stack"), "{error}"),
            }
        }
    }
}

mod elements {
    use super::*;

    /// 2^60 elements.
    const MANY: [u8; 9] = [253, 0, 0, 0, 0, 0, 0, 0, 16];

    #[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Clone, Copy, Serialize, Deserialize)]
    struct Nothing {}

    #[derive(Debug, Serialize, Deserialize)]
    struct Cached {
        #[serde(skip)]
        _cache: Vec<u8>,
    }

    fn too_many<T: DeserializeOwned + Debug>() {
        let error = Bincode.decode::<T>(&MANY).unwrap_err();
        assert!(error.to_string().contains("too many"), "{error}");
    }

    #[test]
    fn input_1_elements_are_counted_whatever_they_take() {
        too_many::<Vec<()>>();
        too_many::<BTreeSet<()>>();
        too_many::<HashSet<Nothing>>();
        too_many::<VecDeque<[u8; 0]>>();
        too_many::<HashMap<(), ()>>();
        too_many::<BTreeMap<(), Nothing>>();
        too_many::<Vec<Cached>>();
        too_many::<Vec<std::marker::PhantomData<u8>>>();
        too_many::<Vec<u64>>();
        too_many::<Vec<String>>();
        assert!(Bincode.decode::<String>(&MANY).is_err());
        // In parts, too: 2^16 times 2^16.
        let mut parts = vec![251, 0, 255];
        parts.extend([251, 255, 255].repeat(0xff00));
        let error = Bincode.decode::<Vec<Vec<()>>>(&parts).unwrap_err();
        assert!(error.to_string().contains("too many"), "{error}");
    }

    #[test]
    fn input_1_a_writer_refuses_what_its_reader_would() {
        let error = Bincode.encode_to_vec(&vec![(); 1 << 18]).unwrap_err();
        assert!(error.to_string().contains("too many"), "{error}");
        let error = Bincode.encode_to_vec(&vec![[(); 0]; 100_000]).unwrap_err();
        assert!(error.to_string().contains("too many"), "{error}");
        same(&vec![(); 1000]);
        same(&vec![Nothing {}; 1000]);
        same(&vec![vec![7_u8; 1000]; 1000]);
    }

    /// A sequence in a sequence in ..: each says that it is long.
    #[test]
    fn input_1_room_is_made_for_what_may_come_only() {
        #[derive(Debug, Deserialize)]
        struct Nest {
            _inner: Vec<(Nest, [u64; 16])>,
        }
        let claims = [251, 0, 255].repeat(250);
        let error = Bincode.decode::<Nest>(&claims).unwrap_err();
        assert!(error.to_string().contains("too many"), "{error}");
    }
}

mod halves {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct SkipIf {
        #[serde(skip_serializing_if = "Option::is_none")]
        a: Option<u8>,
        b: u8,
        tail: Vec<u8>,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct SkipIfAtTheEnd {
        b: u8,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        tail: Vec<u8>,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct TupleSkipIf(
        #[serde(skip_serializing_if = "Option::is_none", default)] Option<u8>,
        #[serde(default)] u8,
        #[serde(default)] Vec<u8>,
    );

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    enum Variants {
        Struct {
            #[serde(skip_serializing_if = "Option::is_none")]
            a: Option<u8>,
            b: u8,
            tail: Vec<u8>,
        },
        Tuple(
            #[serde(skip_serializing_if = "Option::is_none", default)] Option<u8>,
            #[serde(default)] u8,
            #[serde(default)] Vec<u8>,
        ),
    }

    #[test]
    fn a_field_that_is_left_out_is_an_error_that_names_it() {
        let (a, b, tail) = (None, 1, vec![5, 1, 9]);
        let left_out = SkipIf {
            a,
            b,
            tail: tail.clone(),
        };
        let error = Bincode.encode_to_vec(&left_out).unwrap_err().to_string();
        assert!(
            error.contains("`SkipIf`") && error.contains("`a`"),
            "{error}"
        );
        assert!(error.contains("skip_serializing_if"), "{error}");
        // Pickles carry names.
        assert_eq!(travel::<_, SkipIf>(Pickle, &left_out), Ok(left_out));
        same(&SkipIf {
            a: Some(1),
            b,
            tail: tail.clone(),
        });
        refused(&SkipIfAtTheEnd { b, tail: vec![] }, "skip_serializing_if");
        same(&SkipIfAtTheEnd {
            b,
            tail: tail.clone(),
        });
        refused(
            &Variants::Struct {
                a,
                b,
                tail: tail.clone(),
            },
            "`Struct` leaves out its field `a`",
        );
        same(&Variants::Struct {
            a: Some(7),
            b,
            tail: tail.clone(),
        });
        // Of these nobody is told.
        same_or_refused(&TupleSkipIf(a, b, tail.clone()), "decode");
        same(&TupleSkipIf(Some(7), b, tail.clone()));
        same_or_refused(&Variants::Tuple(a, b, tail.clone()), "decode");
        same(&Variants::Tuple(Some(7), b, tail));
    }

    macro_rules! one_half {
        ($name:ident, $attribute:ident) => {
            mod $name {
                use super::*;

                #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
                pub(super) struct Struct {
                    #[serde($attribute, default)]
                    pub(super) a: u8,
                    pub(super) b: u8,
                    pub(super) tail: Vec<u8>,
                }

                #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
                pub(super) struct Tuple(
                    #[serde($attribute, default)] pub(super) u8,
                    #[serde(default)] pub(super) u8,
                );

                #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
                pub(super) enum Fields {
                    Newtype(#[serde($attribute, default)] u8),
                    Tuple(
                        #[serde($attribute, default)] u8,
                        #[serde(default)] u8,
                        #[serde(default)] Vec<u8>,
                    ),
                    Struct {
                        #[serde($attribute, default)]
                        a: u8,
                        b: u8,
                    },
                    Last,
                }

                #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
                pub(super) enum Variants {
                    A,
                    #[serde($attribute)]
                    #[allow(dead_code)]
                    B(u8),
                    C(u8),
                    D(u8),
                    E {
                        x: u8,
                    },
                    F {
                        x: u8,
                    },
                }

                #[test]
                fn nothing_becomes_another_value() {
                    for tail in [vec![], vec![1], vec![0, 0], vec![5, 1, 9]] {
                        for (a, b) in [(0, 0), (0, 1), (1, 1), (3, 2)] {
                            let tail = || tail.clone();
                            check(&Struct { a, b, tail: tail() }, |back| {
                                *back
                                    == Struct {
                                        a: 0,
                                        b,
                                        tail: tail(),
                                    }
                            });
                            check(&(Struct { a, b, tail: tail() }, tail()), |back| {
                                *back
                                    == (
                                        Struct {
                                            a: 0,
                                            b,
                                            tail: tail(),
                                        },
                                        tail(),
                                    )
                            });
                            check(&vec![Tuple(a, b); 4], |back| *back == vec![Tuple(0, b); 4]);
                            check(&(Fields::Newtype(a), tail()), |back| {
                                *back == (Fields::Newtype(0), tail())
                            });
                            check(&(Fields::Tuple(a, b, tail()), b), |back| {
                                *back == (Fields::Tuple(0, b, tail()), b)
                            });
                            check(&(Fields::Struct { a, b }, b), |back| {
                                *back == (Fields::Struct { a: 0, b }, b)
                            });
                            check(&(Fields::Last, tail()), |_| false);
                        }
                        for variant in [
                            Variants::A,
                            Variants::B(1),
                            Variants::C(1),
                            Variants::D(1),
                            Variants::E { x: 1 },
                            Variants::F { x: 1 },
                        ] {
                            check(&(variant.clone(), tail.clone()), |_| false);
                        }
                    }
                }
            }
        };
    }

    one_half!(skip, skip);
    one_half!(skip_serializing, skip_serializing);
    one_half!(skip_deserializing, skip_deserializing);

    /// It is refused, comes back, or comes back as the attribute says.
    #[track_caller]
    fn check<T: Serialize + DeserializeOwned + PartialEq + Debug>(
        value: &T,
        as_documented: impl Fn(&T) -> bool,
    ) {
        if let Ok(back) = travel::<T, T>(Bincode, value) {
            assert!(
                back == *value || as_documented(&back),
                "{value:?} became {back:?}"
            );
        }
    }

    #[test]
    fn what_is_skipped_by_both_halves_travels() {
        let back = travel(
            Bincode,
            &skip::Struct {
                a: 7,
                b: 1,
                tail: vec![2],
            },
        );
        assert_eq!(
            back,
            Ok(skip::Struct {
                a: 0,
                b: 1,
                tail: vec![2]
            })
        );
        assert_eq!(travel(Bincode, &skip::Tuple(7, 1)), Ok(skip::Tuple(0, 1)));
        same(&skip::Variants::A);
    }

    #[test]
    fn a_variant_behind_one_that_is_skipped_does_not_become_its_neighbour() {
        refused(&skip::Variants::C(1), "skips, renames or aliases a variant");
        refused(
            &skip::Variants::E { x: 1 },
            "skips, renames or aliases a variant",
        );
    }

    #[test]
    fn a_variant_with_other_names_hides_none_that_is_skipped() {
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        enum Both {
            #[serde(alias = "Aa")]
            A(u8),
            #[serde(skip)]
            #[allow(dead_code)]
            B(u8),
            C(u8),
            D(u8),
            E(u8),
        }
        same(&Both::A(1));
        // The other name takes the number of the one that is missing.
        same(&Both::C(1));
        same(&Both::D(1));
        same_or_refused(&Both::E(1), "decode");
    }

    /// Written by hand: they know variants by one of the two only.
    #[test]
    fn variants_are_known_by_number_or_by_name() {
        use serde::de::{EnumAccess, VariantAccess, Visitor};

        #[derive(Debug, Clone, Copy, PartialEq)]
        struct By<T>(u32, std::marker::PhantomData<T>);
        trait Known: DeserializeOwned + Debug + PartialEq {
            fn number(self) -> u32;
        }
        impl Known for u32 {
            fn number(self) -> u32 {
                self
            }
        }
        impl Known for String {
            fn number(self) -> u32 {
                u32::from(self == "B")
            }
        }
        impl<T> Serialize for By<T> {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_unit_variant("By", self.0, ["A", "B"][self.0 as usize])
            }
        }
        impl<'de, T: Known> Visitor<'de> for By<T> {
            type Value = Self;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("A or B")
            }
            fn visit_enum<A: EnumAccess<'de>>(self, from: A) -> Result<Self, A::Error> {
                let (known, content) = from.variant::<T>()?;
                content.unit_variant()?;
                Ok(Self(known.number(), self.1))
            }
        }
        impl<'de, T: Known> Deserialize<'de> for By<T> {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                from.deserialize_enum("By", &["A", "B"], Self(0, std::marker::PhantomData))
            }
        }
        for number in [0, 1] {
            same(&By::<u32>(number, std::marker::PhantomData));
            same(&By::<String>(number, std::marker::PhantomData));
        }
    }

    #[test]
    fn the_variant_for_all_others_takes_nothing_for_its_own() {
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        enum Newer {
            A,
            Other,
            B(u8),
        }
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        enum Older {
            A,
            #[serde(other)]
            Other,
        }
        same(&Older::A);
        same(&Older::Other);
        let became = travel::<_, (Older, Vec<u8>)>(Bincode, &(Newer::B(0), vec![1_u8]));
        assert!(became.is_err(), "{became:?}");
    }

    #[test]
    fn attributes_that_change_both_halves_alike_travel() {
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        #[serde(rename_all = "camelCase", default, deny_unknown_fields)]
        struct Renamed {
            #[serde(alias = "first", alias = "zeroth")]
            first_field: u8,
            #[serde(rename = "type")]
            kind: String,
            #[serde(with = "bytes")]
            bytes: Vec<u8>,
        }
        impl Default for Renamed {
            fn default() -> Self {
                Self {
                    first_field: 9,
                    kind: String::new(),
                    bytes: vec![],
                }
            }
        }
        mod bytes {
            use serde::{Deserialize, Deserializer, Serializer};
            pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
                to.serialize_bytes(bytes)
            }
            pub(super) fn deserialize<'de, D: Deserializer<'de>>(
                from: D,
            ) -> Result<Vec<u8>, D::Error> {
                Vec::<u8>::deserialize(from)
            }
        }
        same(&Renamed {
            first_field: 1,
            kind: "k".to_owned(),
            bytes: vec![1, 2],
        });

        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case", rename_all_fields = "UPPERCASE")]
        enum Cases {
            FirstCase,
            SecondCase {
                some_field: u8,
            },
            #[serde(rename = "3")]
            Third(u8, u16),
        }
        same(&vec![
            Cases::FirstCase,
            Cases::SecondCase { some_field: 1 },
            Cases::Third(1, 2),
        ]);

        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(into = "String", try_from = "String")]
        struct Text(u8);
        impl From<Text> for String {
            fn from(text: Text) -> Self {
                text.0.to_string()
            }
        }
        impl TryFrom<String> for Text {
            type Error = std::num::ParseIntError;
            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse().map(Self)
            }
        }
        same(&Text(7));

        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        #[serde(transparent)]
        struct Transparent {
            inner: u8,
        }
        same(&Transparent { inner: 7 });
        same(&std::time::Duration::from_millis(7));
        same(&Result::<u8, String>::Err("no".to_owned()));
        same(&std::net::SocketAddr::from(([127, 0, 0, 1], 80)));
        same(&(1..2, std::ops::Bound::Included(7)));
        same(&std::time::SystemTime::UNIX_EPOCH);
    }

    #[test]
    fn what_bincode_cannot_say_is_an_error_that_tells_what_can() {
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        struct Inner {
            a: u8,
        }
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        struct Flat {
            #[serde(flatten)]
            inner: Inner,
        }
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        #[serde(untagged)]
        enum Untagged {
            A(u8),
        }
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        #[serde(tag = "t")]
        enum Tagged {
            A { a: u8 },
        }
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        #[serde(tag = "t", content = "c")]
        enum Adjacent {
            A(u8),
            B,
        }
        refused(
            &Flat {
                inner: Inner { a: 1 },
            },
            "flatten",
        );
        refused(&Untagged::A(1), "untagged");
        refused(&Tagged::A { a: 1 }, "untagged, tag or flatten");
        refused(&serde_json::json!({"a": 1}), "pickle");
        same_or_refused(&Adjacent::A(1), "decode");
        same_or_refused(&Adjacent::B, "decode");
        let pickled = travel::<_, Flat>(
            Pickle,
            &Flat {
                inner: Inner { a: 1 },
            },
        );
        assert_eq!(
            pickled,
            Ok(Flat {
                inner: Inner { a: 1 }
            })
        );
    }

    #[test]
    fn a_serialize_that_miscounts_is_an_error_where_the_count_is_written() {
        use serde::ser::{SerializeMap, SerializeSeq, SerializeStruct, SerializeTuple, Serializer};
        fn error<T: Serialize>(codec: PayloadCodec, value: &T) {
            let error = codec.encode_to_vec(value).unwrap_err().to_string();
            assert!(error.contains("announces 2 parts and writes 1"), "{error}");
        }
        macro_rules! miscounts {
            ($name:ident, $begin:ident($($begins:expr),*), $add:ident($($adds:expr),*)) => {
                struct $name;
                impl Serialize for $name {
                    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                        let mut parts = to.$begin($($begins),*)?;
                        parts.$add($($adds),*)?;
                        parts.end()
                    }
                }
                error(Bincode, &$name);
            };
        }
        miscounts!(Sequence, serialize_seq(Some(2)), serialize_element(&1));
        miscounts!(Tuple, serialize_tuple(2), serialize_element(&1));
        miscounts!(Map, serialize_map(Some(2)), serialize_entry(&1, &1));
        miscounts!(Struct, serialize_struct("S", 2), serialize_field("a", &1));
        // A pickle says where they end, but for short tuples.
        #[derive(Debug, PartialEq, Deserialize)]
        struct Read {
            a: u8,
        }
        assert_eq!(travel::<_, Vec<u8>>(Pickle, &Sequence), Ok(vec![1]));
        let map = BTreeMap::from([(1, 1)]);
        assert_eq!(travel::<_, BTreeMap<u8, u8>>(Pickle, &Map), Ok(map));
        assert_eq!(travel::<_, Read>(Pickle, &Struct), Ok(Read { a: 1 }));
        error(Pickle, &Tuple);
        error(Pickle, &(7, Some(Tuple)));
    }
}

mod memory {
    use super::*;

    /// What takes no bytes, or few, and much memory.
    #[derive(Debug, Clone, Serialize, Deserialize)]
    struct Cached {
        #[serde(skip, default = "numbers")]
        cache: [u64; 1024],
    }

    fn numbers() -> [u64; 1024] {
        [7; 1024]
    }

    #[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
    struct Key {
        #[serde(skip, default = "number")]
        number: u64,
        #[serde(skip, default = "numbers")]
        cache: [u64; 1024],
    }

    fn number() -> u64 {
        use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
        static NEXT: AtomicU64 = AtomicU64::new(0);
        NEXT.fetch_add(1, Relaxed)
    }

    #[derive(Debug, Default, Clone, Copy, PartialEq, Serialize, Deserialize)]
    #[serde(from = "()", into = "()")]
    struct FromNothing([[u64; 32]; 32]);

    impl From<()> for FromNothing {
        fn from((): ()) -> Self {
            Self([[7; 32]; 32])
        }
    }

    impl From<FromNothing> for () {
        fn from(_: FromNothing) {}
    }

    #[derive(Debug, Serialize, Deserialize)]
    struct Four([Option<Box<Branches>>; 4]);

    #[derive(Debug, Serialize, Deserialize)]
    struct Branches {
        below: Four,
        #[serde(skip, default = "numbers")]
        _cache: [u64; 1024],
    }

    /// A list of lists of the same value, as Python pickles what is shared.
    fn shared(item: &[u8], of: usize) -> Vec<u8> {
        let (mut bytes, repeated) = (b"\x80\x04]".to_vec(), b"h\x00".repeat(of));
        bytes.extend([b"(", item, b"\x94", &repeated, b"e."].concat());
        bytes
    }

    #[track_caller]
    fn too_much<T: DeserializeOwned>(codec: PayloadCodec, bytes: &[u8]) {
        let error = codec.decode::<T>(bytes).map(drop).unwrap_err().to_string();
        assert!(error.contains("bytes of memory"), "{codec:?}: {error}");
    }

    #[test]
    fn input_1_elements_are_paid_for_by_what_they_take() {
        // 65,000 of them.
        let many = [251, 0xe8, 0xfd];
        too_much::<Vec<Cached>>(Bincode, &many);
        too_much::<VecDeque<Box<Cached>>>(Bincode, &many);
        too_much::<BTreeSet<Key>>(Bincode, &many);
        too_much::<HashSet<Key>>(Bincode, &many);
        too_much::<BTreeMap<Key, ()>>(Bincode, &many);
        too_much::<Vec<[Cached; 2]>>(Bincode, &many);
        too_much::<Vec<(Cached, ())>>(Bincode, &many);
        too_much::<Vec<FromNothing>>(Bincode, &many);
        // With a byte each, or two.
        let with = |bytes: &[u8]| [&many[..], &bytes.repeat(65_000)].concat();
        too_much::<Vec<Option<Box<Cached>>>>(Bincode, &with(&[1]));
        too_much::<Vec<Option<Cached>>>(Bincode, &with(&[0]));
        too_much::<BTreeMap<u16, Cached>>(Bincode, &with(&[1]));
        too_much::<Vec<Result<Box<Cached>, ()>>>(Bincode, &with(&[0]));
        // In a pickle: each is an empty dict, or None.
        let dicts = shared(b"}", 65_000);
        too_much::<Vec<Cached>>(Pickle, &dicts);
        too_much::<Vec<Option<Box<Cached>>>>(Pickle, &dicts);
        too_much::<BTreeSet<Key>>(Pickle, &dicts);
        let mut nones = b"\x80\x04](".to_vec();
        nones.extend(b"N".repeat(65_000));
        nones.extend(b"e.");
        too_much::<Vec<FromNothing>>(Pickle, &nones);
        too_much::<Vec<Option<Cached>>>(Pickle, &nones);
    }

    #[test]
    fn input_1_so_are_values_in_boxes_without_a_sequence() {
        fn branches(levels: usize) -> Vec<u8> {
            match levels {
                0 => vec![0; 4],
                levels => {
                    let below = [&[1][..], &branches(levels - 1)].concat();
                    below.repeat(4)
                }
            }
        }
        // 4^8 of 8 KiB, and those around them.
        too_much::<Four>(Bincode, &branches(8));
    }

    #[test]
    fn large_values_travel_in_number() {
        for codec in CODECS {
            let cached = vec![Cached { cache: [7; 1024] }; 2000];
            let back: Vec<Cached> = travel(codec, &cached).unwrap();
            assert!(back.len() == 2000 && back[1999].cache == [7; 1024]);
            let sparse = vec![None::<([u64; 30], String)>; 50_000];
            assert_eq!(travel(codec, &sparse), Ok(sparse));
            let dense = vec![[[1_u64; 32]; 8]; 2000];
            assert_eq!(travel(codec, &dense), Ok(dense));
        }
    }
}

/// Serde keeps what it does not know yet, and makes the value of that, out of our sight.
mod untagged {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(untagged)]
    enum Tree {
        Leaf(u8),
        Node(Vec<Tree>),
        Named { below: Box<Tree> },
    }

    #[derive(Debug, Serialize, Deserialize)]
    #[serde(tag = "kind")]
    enum Tagged {
        Leaf,
        Node { below: Box<Tagged> },
    }

    /// Lists within lists, innermost a list of as many numbers.
    fn lists(levels: usize, numbers: usize) -> Vec<u8> {
        let mut bytes = b"\x80\x04".to_vec();
        bytes.extend(b"](".repeat(levels));
        bytes.extend(b"K\x01".repeat(numbers));
        bytes.extend(b"e".repeat(levels));
        bytes.push(b'.');
        bytes
    }

    #[test]
    fn input_1_a_deep_value_is_refused() {
        for levels in [129, 1000, 100_000] {
            let error = Pickle.decode::<Tree>(&lists(levels, 1)).unwrap_err();
            assert!(error.to_string().contains("deep"), "{error}");
        }
        let mut bytes = b"\x80\x04".to_vec();
        bytes.extend(b"}(X\x04\0\0\0kindX\x04\0\0\0NodeX\x05\0\0\0below".repeat(1000));
        bytes.extend(b"u".repeat(1000));
        bytes.push(b'.');
        let error = Pickle.decode::<Tagged>(&bytes).unwrap_err().to_string();
        assert!(
            error.contains("deep") || error.contains("pickle"),
            "{error}"
        );
    }

    /// On a thread of 2 MiB, as this is.
    #[test]
    fn what_is_as_deep_as_is_allowed_travels() {
        let tree: Tree = Pickle.decode(&lists(128, 1)).unwrap();
        assert_eq!(travel(Pickle, &tree), Ok(tree));
        let tagged = (0..100).fold(Tagged::Leaf, |below, _| Tagged::Node {
            below: Box::new(below),
        });
        travel::<_, Tagged>(Pickle, &tagged).unwrap();
    }

    /// Each level keeps a copy of what is in it while it tries its variants.
    #[test]
    fn input_1_a_wide_value_deep_within_is_refused() {
        let error = Pickle
            .decode::<Tree>(&lists(100, 500_000))
            .map(drop)
            .unwrap_err();
        assert!(error.to_string().contains("bytes of memory"), "{error}");
        let shared = [&b"\x80\x04]("[..], b"K\x01", b"\x94h\0", b"e."].concat();
        Pickle.decode::<Tree>(&shared).unwrap();
        let wide: Tree = Pickle.decode(&lists(3, 200_000)).unwrap();
        assert_eq!(travel(Pickle, &wide), Ok(wide));
    }
}
