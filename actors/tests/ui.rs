//! What `#[service]` says about what it does not accept. The tests in `ui/pass` are what it
//! accepts.

#[test]
fn services_say_what_to_write_instead() {
    trybuild::TestCases::new().compile_fail("tests/ui/fail/*.rs");
}
