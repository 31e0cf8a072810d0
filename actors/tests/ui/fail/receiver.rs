use slimerpc_actors::service;

struct Calc;

#[service]
impl Calc {
    #[method]
    fn free(a: i64) -> i64 {
        a
    }

    #[method]
    fn consume(self) {}

    #[method]
    fn boxed(self: Box<Self>) {}

    #[method]
    fn nothing() {}
}

struct Wrapped;

#[service]
impl Wrapped {
    #[method]
    fn pinned(self: std::pin::Pin<&mut Self>) {}

    #[method]
    fn counted(self: std::rc::Rc<Self>) {}

    #[method]
    fn owned(self: Self) {}

    #[method]
    fn of_another(self: &Box<Self>) {}

    #[method]
    fn for_ever(&'static self) {}
}

fn main() {}
