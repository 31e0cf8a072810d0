//! Stands in for TLS in a build without it: there is no such thing.

use std::io;
use std::os::fd::OwnedFd;

use super::address::TcpKey;
use super::stream::Piece;
use crate::tls::{TlsError, TlsFileError, TlsFiles};

#[derive(Debug)]
pub(super) enum TlsContext {}

#[derive(Debug)]
pub(super) enum TlsSession {}

#[expect(dead_code)]
pub(super) enum Handshake {
    Done,
    Reads,
    Writes,
}

pub(super) fn proof(key: TcpKey) -> TcpKey {
    key
}

impl TlsContext {
    pub(super) fn open(files: &TlsFiles) -> Result<Self, TlsFileError> {
        Err(TlsFileError {
            setting: TlsFiles::SETTINGS[0],
            path: files.cert.clone(),
            reason: "TLS needs the cargo feature `tls`".to_owned(),
        })
    }
}

impl TlsSession {
    pub(super) fn begin(context: &TlsContext, _: Option<&str>, _: bool) -> Result<Self, TlsError> {
        match *context {}
    }

    pub(super) fn handshake(&mut self, _: &OwnedFd) -> Result<Handshake, Option<TlsError>> {
        match *self {}
    }

    pub(super) fn holds_input(&mut self) -> bool {
        match *self {}
    }

    /// # Safety
    /// It cannot be called.
    pub(super) unsafe fn receive(
        &mut self,
        _: &OwnedFd,
        _: &[Piece],
        _: bool,
    ) -> io::Result<usize> {
        match *self {}
    }

    /// # Safety
    /// It cannot be called.
    pub(super) unsafe fn send(&mut self, _: &OwnedFd, _: &[Piece]) -> io::Result<usize> {
        match *self {}
    }
}
