//! Messages have `Clone` and `Debug` if their arguments do.
#![allow(clippy::all)]
#![deny(warnings, missing_docs, unreachable_pub, private_interfaces)]

use std::fmt::Debug;

use slimerpc_actors::service;

/// Neither can be cloned nor shown.
#[derive(serde::Serialize, serde::Deserialize)]
struct Opaque;

/// Can be shown.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Shown(u8);

struct Calc;

#[service]
impl Calc {
    #[method]
    fn add(&self, a: i64, r#type: Vec<String>) -> i64 {
        a + r#type.len() as i64
    }

    #[method]
    fn reset(&self) {}

    #[method]
    fn show(&self, shown: Shown) -> Shown {
        shown
    }

    #[method]
    fn hide(&self, count: u8, opaque: Opaque) -> Opaque {
        let _ = count;
        opaque
    }

    #[method(oneway)]
    fn log(&self, text: String) {
        let _ = text;
    }
}

#[service(prefix = "Trait")]
trait Calculator {
    #[method]
    fn add(&self, a: i64) -> i64;
}

/// Says whether a type has a trait: the inherent constant is found first, if its bounds hold.
macro_rules! has {
    ($type:ty: $trait:path) => {{
        #[allow(dead_code)]
        trait No {
            const HAS: bool = false;
        }
        impl<T: ?Sized> No for T {}
        struct Is<T: ?Sized>(std::marker::PhantomData<T>);
        #[allow(dead_code)]
        impl<T: ?Sized + $trait> Is<T> {
            const HAS: bool = true;
        }
        <Is<$type>>::HAS
    }};
}

fn main() {
    let add = Add {
        a: 1,
        r#type: vec!["x".to_owned()],
    };
    assert_eq!(format!("{:?}", add.clone()), r#"Add { a: 1, type: ["x"] }"#);
    assert_eq!(format!("{:?}", Reset.clone()), "Reset");
    assert_eq!(
        format!("{:#?}", TraitAdd { a: 1 }.clone()),
        "TraitAdd {\n    a: 1,\n}"
    );
    assert!(has!(Log: Clone) && has!(Log: Debug));
    assert!(!has!(Show: Clone) && has!(Show: Debug));
    assert!(!has!(Hide: Clone) && !has!(Hide: Debug));
    let _ = (
        Hide {
            count: 1,
            opaque: Opaque,
        },
        Show { shown: Shown(1) }.shown.0,
    );
}
