//! The pictures of the book: `cargo test --workspace --test console -- --ignored screenshots`.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use crate::browser::Browser;
use crate::job::Job;

/// Largest picture, in bytes.
const LARGEST: usize = 200 * 1024;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "writes the pictures of the book"]
async fn screenshots_are_made() {
    let Some(browser) = Browser::start().await else {
        panic!("there is no browser");
    };
    let mut job = Job::training();
    let console = job.console();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/images");
    fs::create_dir_all(&folder).unwrap();
    for (name, page, theme, width, height) in [
        ("desktop", "/", "light", 1280, 1000),
        ("dark", "/", "dark", 1280, 1000),
        ("services", "/services", "light", 1280, 860),
        ("events", "/events", "dark", 1280, 700),
        ("agent", "/agent//trainer%3A3", "light", 1280, 1180),
        ("phone", "/", "light", 360, 780),
    ] {
        job.tick();
        browser.resize(width, height).await;
        browser.prefer(&[("prefers-color-scheme", theme)]).await;
        browser.client.goto("about:blank").await.unwrap();
        browser
            .client
            .goto(&format!("{console}#{page}"))
            .await
            .unwrap();
        let is_drawn = "document.querySelector('#live')?.innerText === 'live' && document.querySelector('tbody tr')";
        browser.until(is_drawn).await;
        let picture = browser.client.screenshot().await.unwrap();
        assert!(picture.len() < LARGEST, "{name}: {} bytes", picture.len());
        fs::write(folder.join(format!("console-{name}.png")), picture).unwrap();
    }
    browser.close(&job.server.url()).await;
}
