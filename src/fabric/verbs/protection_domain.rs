//! Protection domains: they group objects that may be used together.

use std::ptr::NonNull;
use std::sync::Arc;

use ibverbs_sys::{ibv_alloc_pd, ibv_dealloc_pd, ibv_pd};

use super::context::Context;
use super::diagnosis::last_failed;
use crate::fabric::FabricError;

/// An `ibv_pd`.
#[derive(Debug)]
pub(super) struct ProtectionDomain {
    raw: NonNull<ibv_pd>,
    context: Arc<Context>,
}

// SAFETY: the verbs API is thread safe for every object (ibverbs(7)).
unsafe impl Send for ProtectionDomain {}
// SAFETY: as above.
unsafe impl Sync for ProtectionDomain {}

impl ProtectionDomain {
    pub(super) fn new(context: Arc<Context>) -> Result<Self, FabricError> {
        // SAFETY: the context is open.
        let raw = NonNull::new(unsafe { ibv_alloc_pd(context.raw()) });
        let raw =
            raw.ok_or_else(|| last_failed("ibv_alloc_pd", format!("device {}", context.name())))?;
        Ok(Self { raw, context })
    }

    pub(super) fn raw(&self) -> *mut ibv_pd {
        self.raw.as_ptr()
    }

    pub(super) fn context(&self) -> &Arc<Context> {
        &self.context
    }
}

impl Drop for ProtectionDomain {
    fn drop(&mut self) {
        // SAFETY: allocated by us, freed once; regions and queue pairs hold an `Arc` of it and so
        // are gone.
        if unsafe { ibv_dealloc_pd(self.raw()) } != 0 {
            tracing::warn!(
                device = self.context.name(),
                "a protection domain cannot be freed"
            );
        }
    }
}
