//! An opened device, and the events that concern more than one queue.

use std::collections::HashMap;
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use ibverbs_sys::{
    IBV_EVENT_CQ_ERR, IBV_EVENT_DEVICE_FATAL, IBV_EVENT_PORT_ACTIVE, IBV_EVENT_PORT_ERR,
    ibv_ack_async_event, ibv_async_event, ibv_close_device, ibv_context, ibv_device,
    ibv_event_type_str, ibv_free_device_list, ibv_get_async_event, ibv_get_device_list,
    ibv_get_device_name, ibv_open_device,
};

use super::diagnosis::last_failed;
use crate::fabric::FabricError;

/// An `ibv_context`.
#[derive(Debug)]
pub(super) struct Context {
    raw: NonNull<ibv_context>,
    name: String,
    /// The failure flags of completion queues, by their address.
    queues: Mutex<HashMap<usize, Weak<AtomicBool>>>,
}

// SAFETY: the verbs API is thread safe for every object (ibverbs(7)); what we keep besides is
// behind a lock.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

/// Names of the RDMA devices that libibverbs knows.
///
/// ```
/// println!("{:?}", slimerpc::fabric::verbs::names());
/// ```
pub fn names() -> Vec<String> {
    let list = DeviceList::get();
    list.devices().map(name_of).collect()
}

/// The list of devices, freed when dropped.
struct DeviceList {
    raw: *mut *mut ibv_device,
    count: usize,
}

impl DeviceList {
    fn get() -> Self {
        let mut count = 0;
        // SAFETY: `count` is valid for a write; a null result is an empty list.
        let raw = unsafe { ibv_get_device_list(&mut count) };
        let count = if raw.is_null() {
            0
        } else {
            usize::try_from(count).unwrap_or(0)
        };
        Self { raw, count }
    }

    fn devices(&self) -> impl Iterator<Item = *mut ibv_device> + '_ {
        // SAFETY: the library says that the list has `count` entries; it lives as long as `self`.
        (0..self.count).map(|at| unsafe { *self.raw.add(at) })
    }
}

impl Drop for DeviceList {
    fn drop(&mut self) {
        if !self.raw.is_null() {
            // SAFETY: from `ibv_get_device_list`, freed once.
            unsafe { ibv_free_device_list(self.raw) };
        }
    }
}

fn name_of(device: *mut ibv_device) -> String {
    // SAFETY: `device` comes from a list that is alive; the name is a C string inside it.
    let name = unsafe { CStr::from_ptr(ibv_get_device_name(device)) };
    name.to_string_lossy().into_owned()
}

impl Context {
    /// Opens a device by name.
    pub(super) fn open(name: &str) -> Result<Self, FabricError> {
        let list = DeviceList::get();
        let Some(device) = list.devices().find(|device| name_of(*device) == name) else {
            let known: Vec<_> = list.devices().map(name_of).collect();
            let reason = if known.is_empty() {
                "libibverbs finds no RDMA device here; `rdma link` shows what the kernel has"
                    .to_owned()
            } else {
                format!("libibverbs knows {}", known.join(", "))
            };
            return Err(FabricError::NoDevice {
                device: name.to_owned(),
                reason,
            });
        };
        // SAFETY: the device is in the list, which is alive until the end of this function.
        let raw = unsafe { ibv_open_device(device) };
        let raw = NonNull::new(raw)
            .ok_or_else(|| last_failed("ibv_open_device", format!("device {name}")))?;
        let context = Self {
            raw,
            name: name.to_owned(),
            queues: Mutex::default(),
        };
        rustix::io::ioctl_fionbio(context.async_fd(), true)
            .map_err(FabricError::os("making the device's events non-blocking"))?;
        Ok(context)
    }

    pub(super) fn raw(&self) -> *mut ibv_context {
        self.raw.as_ptr()
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Readable when there are events that [`drain_events`](Self::drain_events) has not seen.
    pub(super) fn async_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open as long as the context, which `self` owns.
        unsafe { BorrowedFd::borrow_raw((*self.raw()).async_fd) }
    }

    /// Sets `failed` when the completion queue at this address fails, or the whole device does.
    pub(super) fn watch(&self, queue: usize, failed: &Arc<AtomicBool>) {
        self.queues().insert(queue, Arc::downgrade(failed));
    }

    pub(super) fn forget(&self, queue: usize) {
        self.queues().remove(&queue);
    }

    /// Handles the pending events. Does not block.
    pub(super) fn drain_events(&self) {
        let mut event = ibv_async_event::default();
        // SAFETY: the context is open and `event` valid for a write; the descriptor is
        // non-blocking.
        while unsafe { ibv_get_async_event(self.raw(), &mut event) } == 0 {
            self.note(&event);
            // SAFETY: the event was just given to us, and is acknowledged once.
            unsafe { ibv_ack_async_event(&mut event) };
        }
    }

    fn note(&self, event: &ibv_async_event) {
        // SAFETY: the library gives a static C string for every number.
        let what = unsafe { CStr::from_ptr(ibv_event_type_str(event.event_type)) };
        let (device, what) = (&*self.name, what.to_string_lossy());
        match event.event_type {
            IBV_EVENT_CQ_ERR => {
                tracing::error!(device, %what, "a completion queue has failed");
                // SAFETY: for this event the library sets the member `cq`.
                let at = unsafe { event.element.cq } as usize;
                self.fail(|queue| queue == at);
            }
            IBV_EVENT_DEVICE_FATAL => {
                tracing::error!(device, %what, "the device has failed");
                self.fail(|_| true);
            }
            IBV_EVENT_PORT_ERR | IBV_EVENT_PORT_ACTIVE => {
                tracing::warn!(device, %what, "port event")
            }
            _ => tracing::debug!(device, %what, "device event"),
        }
    }

    fn fail(&self, which: impl Fn(usize) -> bool) {
        for (queue, failed) in self.queues().iter() {
            if which(*queue)
                && let Some(failed) = failed.upgrade()
            {
                failed.store(true, Ordering::Release);
            }
        }
    }

    fn queues(&self) -> std::sync::MutexGuard<'_, HashMap<usize, Weak<AtomicBool>>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsFd for Context {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.async_fd()
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: opened by us, closed once, and everything made from it holds an `Arc` of it and
        // so is gone.
        if unsafe { ibv_close_device(self.raw()) } != 0 {
            tracing::warn!(device = self.name, "the device cannot be closed");
        }
    }
}
