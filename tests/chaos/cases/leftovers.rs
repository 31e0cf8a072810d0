//! What the dead leave behind.

use std::path::Path;

use crate::host;
use crate::stage::Stage;

/// Where memory that has a name would be.
const SHARED_MEMORY: &str = "/dev/shm";

pub(crate) async fn run(stage: &Stage) {
    let limits = stage.limits;
    let before = host::names_in(Path::new(SHARED_MEMORY));
    let mut killed_ones = Vec::new();
    for _ in 0..3 {
        let mut worker = stage.worker("worker").await;
        let (mut driver, number) = stage.driver("driver", &["worker"]).await;
        let pids = [worker.pid(), driver.pid()];
        let sockets: Vec<_> = pids.into_iter().flat_map(host::sockets_of).collect();
        let on_shm = stage
            .device
            .as_deref()
            .is_none_or(|name| name.starts_with("shm"));
        assert!(!on_shm || !sockets.is_empty(), "shared memory has sockets");
        worker.kill();
        driver.kill();
        killed_ones.push(number);
        stage
            .until("no socket of the dead is left", || {
                let all = host::unix_sockets();
                sockets.iter().all(|socket| !all.contains(socket))
            })
            .await;
    }
    assert_eq!(stage.temporary_files(), Vec::<std::path::PathBuf>::new());
    // Other programs may be at work there.
    let is_clean = || {
        let now = host::names_in(Path::new(SHARED_MEMORY));
        now.is_subset(&before)
    };
    stage.until("no memory of the dead is left", is_clean).await;

    let dead = stage.keys();
    assert!(!dead.is_empty(), "who is killed takes no leave of Redis");
    let worker = stage.worker("worker").await;
    let (driver, _) = stage.driver("driver", &["worker"]).await;
    driver.leave(limits.anything).await;
    worker.leave(limits.anything).await;
    assert_eq!(
        stage.forgotten_keys(),
        Vec::<String>::new(),
        "both have left"
    );
    stage.account().check(&killed_ones);
}
