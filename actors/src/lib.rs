//! SlimeRPC for actix.
