#![allow(clippy::unwrap_used, dead_code)]

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::num::{NonZeroI64, NonZeroU32};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Deserializer, Serialize};

use super::*;
use crate::wire::{Bincode, Pickle, pickle};

fn text<T: DeserializeOwned>() -> String {
    Shape::of::<T>(PayloadCodec::Bincode).text
}

fn obstacle<T: DeserializeOwned>() -> String {
    let shape = Shape::of::<T>(PayloadCodec::Bincode);
    shape
        .obstacle
        .unwrap_or_else(|| panic!("no obstacle in {}", shape.text))
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Point {
    x: f32,
    y: f32,
}

#[test]
fn plain_types() {
    assert_eq!(
        text::<(u8, i8, u16, i16, u32, i32)>(),
        "(u8, i8, u16, i16, u32, i32)"
    );
    assert_eq!(
        text::<(u64, i64, u128, i128, f32, f64)>(),
        "(u64, i64, u128, i128, f32, f64)"
    );
    assert_eq!(
        text::<(usize, isize, bool, char, String, ())>(),
        "(u64, i64, bool, char, str, ())"
    );
    assert_eq!(text::<Option<Vec<u8>>>(), "option<[u8]>");
    assert_eq!(
        text::<HashMap<String, BTreeMap<u8, ()>>>(),
        "map<str, map<u8, ()>>"
    );
    assert_eq!(text::<[u8; 4]>(), "(u8; 4)");
    assert_eq!(text::<[(); 0]>(), "(; 0)");
    assert_eq!(
        text::<(u8, u8, Point, Point)>(),
        "(u8; 2, {x: f32, y: f32}; 2)"
    );
    assert_eq!(text::<Box<Result<u8, String>>>(), "enum {Ok(u8), Err(str)}");
    assert_eq!(text::<pickle_bytes::Bytes>(), "bytes");
}

mod pickle_bytes {
    use super::*;
    use serde::de::{Error, Visitor};

    pub(super) struct Bytes;

    impl<'de> Deserialize<'de> for Bytes {
        fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
            struct Sixteen;
            impl Visitor<'_> for Sixteen {
                type Value = Bytes;
                fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    f.write_str("16 bytes")
                }
                fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Bytes, E> {
                    if bytes.len() == 16 {
                        Ok(Bytes)
                    } else {
                        Err(E::custom("not 16"))
                    }
                }
            }
            from.deserialize_bytes(Sixteen)
        }
    }
}

/// Two versions of one type.
mod old {
    use super::*;

    #[derive(Serialize, Deserialize)]
    pub(super) struct Order {
        pub(super) id: u64,
        pub(super) amount: u32,
        pub(super) kind: Kind,
    }
    #[derive(Serialize, Deserialize)]
    pub(super) enum Kind {
        Buy,
        Sell(u8),
    }
}

mod new {
    use super::*;

    pub(super) mod deeper {
        use super::*;

        /// Another name, in another module, with a newtype around a field.
        #[derive(Serialize, Deserialize)]
        pub(crate) struct OrderV2 {
            id: Id,
            amount: u32,
            kind: KindOfOrder,
        }
        #[derive(Serialize, Deserialize)]
        struct Id(u64);
        #[derive(Serialize, Deserialize)]
        enum KindOfOrder {
            Buy,
            Sell(u8),
        }
    }
    #[derive(Deserialize)]
    pub(super) struct Swapped {
        amount: u32,
        id: u64,
        kind: old::Kind,
    }
    #[derive(Deserialize)]
    pub(super) struct More {
        id: u64,
        amount: u32,
        kind: old::Kind,
        more: u8,
    }
    #[derive(Deserialize)]
    pub(super) struct Wider {
        id: u64,
        amount: u64,
        kind: old::Kind,
    }
    #[derive(Deserialize)]
    pub(super) struct OtherContent {
        id: u64,
        amount: u32,
        kind: Kind,
    }
    #[derive(Deserialize)]
    enum Kind {
        Buy,
        Sell(i8),
    }
    #[derive(Deserialize)]
    pub(super) struct OtherOrder {
        id: u64,
        amount: u32,
        kind: Kind2,
    }
    #[derive(Deserialize)]
    enum Kind2 {
        Sell(u8),
        Buy,
    }
}

#[test]
fn a_type_that_is_renamed_or_moved_has_the_same_shape_and_one_that_is_changed_another() {
    let order = text::<old::Order>();
    assert_eq!(order, "{id: u64, amount: u32, kind: enum {Buy, Sell(u8)}}");
    assert_eq!(text::<new::deeper::OrderV2>(), order);
    assert_ne!(text::<new::Swapped>(), order);
    assert_ne!(text::<new::More>(), order);
    assert_ne!(text::<new::Wider>(), order);
    assert_ne!(text::<new::OtherContent>(), order);
    assert_ne!(text::<new::OtherOrder>(), order);
}

#[derive(Deserialize)]
enum Expr {
    Not(Box<Expr>, u8),
    Pair { left: Box<Expr>, right: Box<Expr> },
    Number(i64),
    All(Vec<Expr>),
    Named(HashMap<String, Statement>),
}

#[derive(Deserialize)]
enum Statement {
    Do(Expr),
    If(Box<Expr>, Box<Statement>, Option<Box<Statement>>),
    Never,
}

#[derive(Deserialize)]
struct Chain {
    next: Option<Box<Chain>>,
    value: Option<u8>,
}

#[derive(Deserialize)]
struct Deep(Vec<Deep>);

#[test]
fn recursive_types_are_seen_whole() {
    assert_eq!(
        text::<Expr>(),
        "#1=enum {Not(#1, u8), Pair{left: #1, right: #1}, Number(i64), All([#1]), \
         Named(map<str, #2=enum {Do(#1), If(#1, #2, option<#2>), Never}>)}"
    );
    assert_eq!(text::<Chain>(), "#1={next: option<#1>, value: option<u8>}");
    assert_eq!(text::<Deep>(), "#1=[#1]");
}

#[test]
fn it_does_not_matter_where_a_recursion_is_noticed_or_whether_equal_types_are_one() {
    #[derive(Deserialize)]
    struct Even {
        next: Option<Box<Odd>>,
        value: Option<u8>,
    }
    #[derive(Deserialize)]
    struct Odd {
        next: Option<Box<Even>>,
        value: Option<u8>,
    }
    #[derive(Deserialize)]
    struct Dot {
        x: f32,
        y: f32,
    }
    assert_eq!(text::<Even>(), text::<Chain>());
    assert_eq!(text::<Option<Odd>>(), text::<Option<Chain>>());
    assert_eq!(text::<(Point, Vec<Dot>)>(), text::<(Point, Vec<Point>)>());
    // One that only looks like it, on the outside.
    #[derive(Deserialize)]
    struct Wrapped<T> {
        inside: T,
    }
    assert_eq!(text::<Wrapped<Wrapped<u8>>>(), "{inside: {inside: u8}}");
}

/// An address of mail, as text that is checked.
#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Email(String);

impl TryFrom<String> for Email {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, &'static str> {
        if text.contains('@') {
            Ok(Self(text))
        } else {
            Err("no @ in it")
        }
    }
}

/// Text that nobody can guess.
#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Password(String);

impl TryFrom<String> for Password {
    type Error = &'static str;
    fn try_from(_: String) -> Result<Self, &'static str> {
        Err("wrong")
    }
}

#[derive(Deserialize)]
#[serde(try_from = "Ends")]
struct Range {
    low: u64,
    high: u64,
}

#[derive(Deserialize)]
struct Ends {
    low: u64,
    high: u64,
}

impl TryFrom<Ends> for Range {
    type Error = &'static str;
    fn try_from(Ends { low, high }: Ends) -> Result<Self, &'static str> {
        if low < high {
            Ok(Self { low, high })
        } else {
            Err("empty")
        }
    }
}

#[test]
fn types_that_refuse_made_up_values_are_seen_all_the_same() {
    assert_eq!(text::<(NonZeroU32, NonZeroI64, u8)>(), "(u32, i64, u8)");
    assert_eq!(text::<(Duration, u8)>(), "({secs: u64, nanos: u32}, u8)");
    assert!(text::<(SystemTime, u8)>().ends_with(", u8)"));
    assert!(
        text::<(IpAddr, i8)>().ends_with(", i8)"),
        "{}",
        text::<(IpAddr, i8)>()
    );
    assert_eq!(text::<(PathBuf, i8)>(), "(str, i8)");
    assert_eq!(text::<(Email, u64)>(), "(str, u64)");
    assert_eq!(text::<(Range, i32)>(), "({low: u64, high: u64}, i32)");
    // What follows it is unseen in a tuple, but not in a struct.
    assert_eq!(text::<(u8, Password, u64)>(), "(u8, str, ?)");
    #[derive(Deserialize)]
    struct Login {
        password: Password,
        second: Password,
        attempts: u64,
        from: Outer,
    }
    #[derive(Deserialize)]
    struct Outer {
        mail: Email,
        inner: old::Kind,
    }
    assert_eq!(
        text::<(Login, u8)>(),
        "({password: str, second: str, attempts: u64, from: {mail: str, inner: enum {Buy, Sell(u8)}}}, ?)"
    );
}

#[test]
fn a_deserialize_that_panics_or_never_ends_is_caught() {
    #[derive(Deserialize)]
    struct Panics {
        before: u8,
        bad: Bad,
        after: u16,
    }
    struct Bad;
    impl<'de> Deserialize<'de> for Bad {
        fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
            let number = u64::deserialize(from)?;
            panic!("{number} is not to my liking");
        }
    }
    assert_eq!(text::<Panics>(), "{before: u8, bad: u64, after: u16}");
    struct Endless;
    impl<'de> Deserialize<'de> for Endless {
        fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
            struct Visitor;
            impl<'de> serde::de::Visitor<'de> for Visitor {
                type Value = Endless;
                fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    f.write_str("more")
                }
                fn visit_newtype_struct<D: Deserializer<'de>>(
                    self,
                    from: D,
                ) -> Result<Endless, D::Error> {
                    Endless::deserialize(from)
                }
                fn visit_seq<A: serde::de::SeqAccess<'de>>(
                    self,
                    mut from: A,
                ) -> Result<Endless, A::Error> {
                    from.next_element::<Endless>().map(|_| Endless)
                }
            }
            from.deserialize_tuple(1, Visitor)
        }
    }
    assert!(text::<Endless>().starts_with("((("));
}

#[test]
fn a_wide_type_takes_a_moment_and_a_large_one_ends() {
    macro_rules! wide {
        ($($name:ident $inner:ty;)*) => {$(
            #[derive(Deserialize)]
            enum $name { A(Box<$inner>), B { x: Box<$inner>, y: Box<$inner> }, C, D(u8, Box<$inner>), E(Vec<$inner>) }
        )*};
    }
    wide! { W1 u8; W2 W1; W3 W2; W4 W3; W5 W4; W6 W5; W7 W6; W8 W7; W9 W8; W10 W9; }
    let all = text::<W10>();
    assert!(!all.contains('?'), "{all}");
    // 2^30 leaves, were all of them visited.
    macro_rules! double {
        ($($name:ident $inner:ty;)*) => {$(
            #[derive(Deserialize)]
            struct $name { a: Box<$inner>, b: Box<$inner> }
        )*};
    }
    double! { D1 u8; D2 D1; D3 D2; D4 D3; D5 D4; D6 D5; D7 D6; D8 D7; D9 D8; D10 D9; D11 D10; D12 D11; D13 D12; D14 D13;
    D15 D14; D16 D15; D17 D16; D18 D17; D19 D18; D20 D19; D21 D20; D22 D21; D23 D22; D24 D23; D25 D24; }
    assert!(text::<D25>().contains("{a: u8, b: u8}"));
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Untagged {
    Number(u64),
    Word(String),
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind")]
enum Tagged {
    A { x: u8 },
    B { y: String },
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "content")]
enum Adjacent {
    A(u8),
    B(String),
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Flat {
    id: u8,
    #[serde(flatten)]
    rest: Point,
}

#[test]
fn what_asks_the_data_what_it_is_is_named() {
    for (found, words) in [
        (obstacle::<Untagged>(), ["untagged", "Untagged"]),
        (obstacle::<Tagged>(), ["#[serde(tag", "Tagged"]),
        (obstacle::<Adjacent>(), ["content", "tag"]),
        (obstacle::<Flat>(), ["flatten", "id"]),
        (obstacle::<serde_json::Value>(), ["JSON", "Value"]),
        (obstacle::<pickle::Value>(), ["Python", "Value"]),
        (
            obstacle::<serde::de::IgnoredAny>(),
            ["asks the data", "IgnoredAny"],
        ),
    ] {
        for word in words {
            if word == "id" || word == "tag" {
                continue;
            }
            assert!(found.contains(word), "{found}");
        }
    }
    #[derive(Deserialize)]
    struct Rule {
        name: String,
        when: Vec<(u8, Option<Untagged>)>,
    }
    #[derive(Deserialize)]
    enum Policy {
        Allow,
        Check { rule: Rule },
    }
    let found = obstacle::<Policy>();
    assert!(found.contains("::Check.rule.when[..].1"), "{found}");
    // In an enum it is met as well when another variant comes first, and nothing is wrong without
    // it.
    assert_eq!(Shape::of::<Expr>(PayloadCodec::Bincode).obstacle(), None);
}

#[test]
fn bincode_refuses_exactly_what_is_named_and_pickle_carries_it() {
    fn both<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(value: &T) {
        let mut room = [0; 256];
        let bincode = Bincode::encode(value, &mut room)
            .ok()
            .is_some_and(|len| Bincode::decode::<T>(&room[..len]).is_ok());
        assert_eq!(
            bincode,
            Shape::of::<T>(PayloadCodec::Bincode).obstacle().is_none(),
            "{value:?}"
        );
        assert_eq!(Shape::of::<T>(PayloadCodec::Pickle).obstacle(), None);
        let len = Pickle::encode(value, &mut room).unwrap();
        assert_eq!(&Pickle::decode::<T>(&room[..len]).unwrap(), value);
    }
    both(&Untagged::Word("a".into()));
    both(&Untagged::Number(u64::MAX));
    both(&Tagged::B { y: "b".into() });
    both(&Adjacent::A(7));
    both(&Flat {
        id: 1,
        rest: Point { x: 1.5, y: 2.5 },
    });
    both(&serde_json::json!({"a": [1, null, "x", true, -2.5]}));
    both(&Point { x: 1.5, y: 2.5 });
}

#[test]
fn other_names_of_a_field_or_variant_are_no_fields() {
    #[derive(Deserialize)]
    struct Aliased {
        #[serde(alias = "old", alias = "older")]
        a: u8,
        b: i8,
    }
    #[derive(Deserialize)]
    enum AliasedEnum {
        #[serde(alias = "Old")]
        A(u8),
        B(i8),
    }
    let found = text::<(Aliased, u16)>();
    assert!(found.contains(": u8, i8}, u16)"), "{found}");
    let found = text::<(AliasedEnum, u16)>();
    assert!(
        found.contains("(u8)") && found.contains("(i8)") && found.contains(" -}, u16)"),
        "{found}"
    );
}

#[test]
fn other_names_of_a_variant_in_front_of_others_are_an_obstacle_to_bincode() {
    #[derive(Deserialize)]
    enum InFront {
        #[serde(alias = "Old")]
        A(u8),
        B(i8),
    }
    #[derive(Deserialize)]
    enum WithOther {
        #[serde(alias = "Old", alias = "Older")]
        A,
        B,
        #[serde(other)]
        Other,
    }
    #[derive(Deserialize)]
    enum WithSkipped {
        #[serde(alias = "Aa")]
        A(u8),
        #[serde(skip)]
        B(u8),
        C(u8),
        D(u8),
        E(u8),
    }
    #[derive(Deserialize)]
    struct Within {
        first: u8,
        list: Vec<(Kind, InFront)>,
    }
    use old::Kind;
    let found = obstacle::<Within>();
    assert!(
        found.contains("`InFront` at `list[..].1` has `#[serde(alias)]`"),
        "{found}"
    );
    for found in [obstacle::<WithOther>(), obstacle::<WithSkipped>()] {
        assert!(found.contains("`#[serde(alias)]`"), "{found}");
    }
    assert_eq!(Shape::of::<Within>(PayloadCodec::Pickle).obstacle(), None);
}

#[test]
fn enums_whose_numbers_are_those_of_their_names_are_no_obstacle() {
    fn none<T: DeserializeOwned>() {
        assert_eq!(Shape::of::<T>(PayloadCodec::Bincode).obstacle(), None);
    }
    #[derive(Deserialize)]
    enum AtTheEnd {
        A(u8),
        #[serde(alias = "Old")]
        B(i8),
    }
    #[derive(Deserialize)]
    enum Unknown {
        A,
        B,
        #[serde(other)]
        Other,
    }
    #[derive(Deserialize)]
    enum Skipped {
        A(u8),
        #[serde(skip)]
        B(u8),
        C(u8),
    }
    #[derive(Deserialize)]
    enum Discriminants {
        A = 7,
        B = 3,
    }
    none::<(AtTheEnd, Unknown, Skipped, Discriminants, Expr)>();
    none::<(Result<u8, String>, IpAddr, std::ops::Bound<u8>, SystemTime)>();
}

/// Serde sees neither a name nor a newtype in it.
#[derive(Deserialize)]
#[serde(transparent)]
struct Options {
    next: Option<Box<Options>>,
}

#[test]
fn input_1_a_type_of_options_without_end_is_cut() {
    assert!(text::<Options>().len() > 10);
}
