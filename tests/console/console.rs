//! The console of NanoCtrl in a real browser: Debian's Chromium without a window.

mod browser;
mod job;
mod pages;
mod screenshots;
