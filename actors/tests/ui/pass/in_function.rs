//! A service inside a function, as in a doctest.
#![allow(clippy::all)]
#![deny(warnings)]

fn main() {
    use slimerpc_actors::{Service, service};

    #[derive(Clone, serde::Serialize, serde::Deserialize)]
    struct Point {
        x: i64,
    }

    #[service]
    impl Point {
        #[method]
        fn add(&mut self, other: Self, more: Vec<Self>) -> Self {
            let x = self.x + other.x + more.iter().map(|point| point.x).sum::<i64>();
            Self { x }
        }

        #[slimerpc_actors::method]
        fn duplicate(&self) -> Result<Self, String> {
            Ok(self.clone())
        }
    }

    #[service]
    trait Greeter {
        #[method]
        fn greet(&self, name: String) -> String;
    }

    struct English;

    impl Greeter for English {
        fn greet(&self, name: String) -> String {
            format!("Hello, {name}")
        }
    }

    assert_eq!(Point::METHODS, ["add", "duplicate"]);
    assert_eq!(<dyn Greeter>::NAME, "Greeter");
    let _ = Add {
        other: Point { x: 1 },
        more: vec![],
    };
    let _ = English.greet("you".into());
}
