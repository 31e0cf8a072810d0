# Regenerate tensor_capnp.rs with: capnp compile -orust:examples/capnp --src-prefix=examples/capnp examples/capnp/tensor.capnp
# (capnp from Debian's package capnproto, and its plugin from `cargo install capnpc`, the version of the crate capnp).
@0xd1b4f0c2a7e93f65;

struct Tensor {
  name @0 :Text;
  shape @1 :List(UInt32);
  values @2 :List(Float32);
}

struct Stats {
  name @0 :Text;
  mean @1 :Float32;
  largest @2 :Float32;
  at @3 :UInt32;
}
