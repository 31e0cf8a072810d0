//! The control plane of one host: what others of the same user can do to its files and sockets, and
//! what killed processes leave.
#![allow(clippy::unwrap_used)]

use std::fs::{self, File, FileTimes};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::StreamExt;
use rustix::fs::{FlockOperation, Mode, flock};
use serde_json::json;
use slimerpc::control::{
    Control, ControlError, Entity, EntityEvent, Host, Mail, MailEvent, Registration,
};
use support::until;
use tempfile::TempDir;
use tokio::time::timeout;

/// Longer than anything here takes; a test that reaches it fails.
const SOON: Duration = Duration::from_secs(60);

/// A directory in which agents meet.
struct Meeting(TempDir);

impl Meeting {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn root(&self) -> PathBuf {
        self.0.path().join("agents")
    }

    /// What belongs to an agent whose name is plain.
    fn path(&self, alias: &str) -> PathBuf {
        self.root().join("job").join(alias)
    }

    fn agent(&self) -> Host {
        Host::at(self.root(), "job")
    }

    async fn join(&self, alias: &str) -> Host {
        let agent = self.agent();
        assert_eq!(agent.register(named(alias)).await.unwrap(), alias);
        agent
    }

    /// As if agents had searched long ago, or never, for what others leave.
    fn forget_search(&self) {
        let _ = fs::remove_file(self.root().join("job/.swept"));
    }

    /// Leaves what an agent leaves that is killed: everything, with a socket that nobody has bound.
    async fn crash(&self, agent: Host, alias: &str) {
        drop(agent);
        let socket = self.path(alias).join("socket");
        // The task that has the socket ends when the runtime gets to it.
        until("nobody has bound the socket", || {
            let asking = UnixDatagram::unbound().unwrap();
            asking.connect(&socket).is_err()
        })
        .await;
    }
}

fn named(alias: &str) -> Registration {
    Registration {
        alias: Some(alias.to_owned()),
        ..Registration::default()
    }
}

fn make_pipe(path: &Path) {
    let mode = Mode::RUSR | Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
}

fn service(id: &str) -> Entity {
    Entity {
        id: id.to_owned(),
        kind: "rpc".to_owned(),
        metadata: json!({}),
    }
}

async fn next_mail(agent: &Host) -> Option<MailEvent> {
    timeout(SOON, agent.mail().next()).await.unwrap()
}

#[tokio::test]
async fn what_a_crashed_agent_leaves_is_invisible_and_its_alias_is_free() {
    let meeting = Meeting::new();
    let (owner, reader) = (meeting.join("w:0").await, meeting.join("r").await);
    reader.set_topology(&["w:0".to_owned()]).await.unwrap();
    owner.publish("ring", json!(1)).await.unwrap();
    owner.advertise(service("x")).await.unwrap();
    reader.send_mail("w:0", &Mail::new("old")).await.unwrap();
    let mut events = reader.watch_entities("rpc");
    let first = timeout(SOON, events.next()).await.unwrap();
    assert_eq!(first, Some(EntityEvent::All(vec![service("x")])));

    meeting.crash(owner, "w:0").await;
    assert!(meeting.path("w:0").exists());
    assert_eq!(reader.peer("w:0").await.unwrap(), None);
    assert_eq!(reader.lookup("w:0", "ring").await.unwrap(), None);
    assert_eq!(reader.entities("rpc").await.unwrap(), []);
    let gone = timeout(SOON, events.next()).await.unwrap();
    assert_eq!(gone, Some(EntityEvent::All(Vec::new())));

    let heir = meeting.join("w:0").await;
    assert_eq!(reader.lookup("w:0", "ring").await.unwrap(), None);
    assert_eq!(reader.entities("rpc").await.unwrap(), []);
    let left = MailEvent::Left {
        peer: "w:0".to_owned(),
    };
    let mut mail = reader.mail();
    while timeout(SOON, mail.next()).await.unwrap() != Some(left.clone()) {}
    // Mail for the one that crashed is not for its heir.
    reader.send_mail("w:0", &Mail::new("new")).await.unwrap();
    let new = Some(MailEvent::Mail(Mail::new("new")));
    assert_eq!(next_mail(&heir).await, new);
}

#[tokio::test]
async fn what_crashed_agents_leave_is_removed_by_others() {
    let meeting = Meeting::new();
    let crashed = meeting.join("w:0").await;
    crashed.publish("ring", json!(1)).await.unwrap();
    meeting.crash(crashed, "w:0").await;
    assert!(meeting.path("w:0").exists());
    // A search that is recent is not repeated.
    meeting.forget_search();
    let other = meeting.join("r").await;
    assert!(!meeting.path("w:0").exists());
    other.clean_up().await.unwrap();
    let is_empty = || fs::read_dir(meeting.root()).unwrap().next().is_none();
    // A look that is under way may make the directory once more, and removes it.
    until("the last one of a scope removes it", is_empty).await;
}

#[tokio::test]
async fn what_the_last_agent_of_another_scope_leaves_is_removed_too() {
    let meeting = Meeting::new();
    meeting.crash(meeting.join("w:0").await, "w:0").await;
    meeting.forget_search();
    // A scope that somebody is changing is left alone.
    let directory = File::open(meeting.root().join("job")).unwrap();
    flock(&directory, FlockOperation::LockExclusive).unwrap();
    let other = Host::at(meeting.root(), "other");
    other.register(named("x")).await.unwrap();
    assert!(meeting.path("w:0").exists());
    drop(directory);
    let third = Host::at(meeting.root(), "third");
    third.register(named("x")).await.unwrap();
    assert!(!meeting.root().join("job").exists());
}

#[tokio::test]
async fn mail_after_a_crash_is_for_the_next_owner_of_the_alias() {
    let meeting = Meeting::new();
    let (owner, sender) = (meeting.join("w:0").await, meeting.join("s").await);
    meeting.crash(owner, "w:0").await;
    sender.send_mail("w:0", &Mail::new("hello")).await.unwrap();
    let heir = meeting.join("w:0").await;
    let hello = Some(MailEvent::Mail(Mail::new("hello")));
    assert_eq!(next_mail(&heir).await, hello);
}

#[tokio::test]
async fn one_of_many_that_race_for_an_alias_gets_it() {
    let meeting = Meeting::new();
    meeting.crash(meeting.join("w:0").await, "w:0").await;
    let racing = (0..16).map(|_| {
        let agent = Arc::new(meeting.agent());
        tokio::spawn(async move {
            let result = agent.register(named("w:0")).await;
            (agent, result)
        })
    });
    let mut owners = Vec::new();
    for raced in futures_util::future::join_all(racing).await {
        match raced.unwrap() {
            (agent, Ok(_)) => owners.push(agent),
            (_, Err(ControlError::AliasTaken { alias, scope, .. })) => {
                assert_eq!((&*alias, &*scope), ("w:0", "job"));
            }
            (_, Err(other)) => panic!("{other}"),
        }
    }
    assert_eq!(owners.len(), 1);
    let taken = meeting.agent().register(named("w:0")).await.unwrap_err();
    let said = taken.to_string();
    // That of a crashed agent is free at once.
    assert!(
        said.contains("take_over") && !said.contains("60 s"),
        "{said}"
    );
}

#[tokio::test]
async fn an_agent_whose_files_vanish_registers_again() {
    let meeting = Meeting::new();
    let (owner, reader) = (meeting.join("w:0").await, meeting.join("r").await);
    owner.publish("ring", json!(1)).await.unwrap();
    owner.advertise(service("x")).await.unwrap();
    fs::remove_dir_all(meeting.root()).unwrap();
    owner.heartbeat().await.unwrap();
    assert_eq!(reader.lookup("w:0", "ring").await.unwrap(), Some(json!(1)));
    assert_eq!(reader.entities("rpc").await.unwrap(), [service("x")]);
    reader.send_mail("w:0", &Mail::new("hello")).await.unwrap();
    let hello = Some(MailEvent::Mail(Mail::new("hello")));
    assert_eq!(next_mail(&owner).await, hello);
}

#[tokio::test]
async fn an_agent_one_of_whose_files_vanishes_or_is_replaced_writes_it_again() {
    let meeting = Meeting::new();
    let (owner, reader) = (meeting.join("w:0").await, meeting.join("r").await);
    let peers = ["r".to_owned()];
    owner.set_topology(&peers).await.unwrap();
    owner.publish("ring", json!(1)).await.unwrap();
    owner.advertise(service("x")).await.unwrap();
    let written = || -> Vec<_> {
        let mut listed: Vec<_> = fs::read_dir(meeting.path("w:0"))
            .unwrap()
            .map(|file| file.unwrap().path())
            .filter(|path| path.is_file() && !path.ends_with("mail"))
            .map(|path| (path.clone(), fs::read(path).unwrap()))
            .collect();
        listed.sort();
        listed
    };
    let all = written();
    assert_eq!(all.len(), 4, "{all:?}");
    let elsewhere = meeting.0.path().join("elsewhere");
    fs::write(&elsewhere, "precious").unwrap();
    for (path, contents) in &all {
        for junk in ["nothing", "garbage", "longer", "directory", "link", "pipe"] {
            let same_length = vec![b'7'; contents.len()];
            fs::remove_file(path).unwrap();
            match junk {
                "garbage" => fs::write(path, same_length).unwrap(),
                "longer" => fs::write(path, [&contents[..], b" 7"].concat()).unwrap(),
                "directory" => fs::create_dir_all(path.join("more")).unwrap(),
                "link" => symlink(&elsewhere, path).unwrap(),
                "pipe" => make_pipe(path),
                _ => {}
            }
            owner.heartbeat().await.unwrap();
            assert_eq!(written(), all, "{junk} in place of {}", path.display());
        }
    }
    // A cleaner that goes by age spares what lives.
    let (file, _) = &all[0];
    let old = SystemTime::now() - Duration::from_secs(1_000_000);
    File::open(file).unwrap().set_modified(old).unwrap();
    // All of them at once, and what it has not published.
    fs::write(meeting.path("w:0").join("entity-y"), "[\"y\",{}]").unwrap();
    all[1..]
        .iter()
        .for_each(|(path, _)| fs::remove_file(path).unwrap());
    owner.heartbeat().await.unwrap();
    assert_eq!(written(), all);
    assert!(fs::metadata(file).unwrap().modified().unwrap() > old + Duration::from_secs(1000));
    assert_eq!(fs::read(&elsewhere).unwrap(), b"precious");
    assert!(reader.peer("w:0").await.unwrap().is_some());
    assert_eq!(reader.lookup("w:0", "ring").await.unwrap(), Some(json!(1)));
    assert_eq!(reader.entities("rpc").await.unwrap(), [service("x")]);
}

/// Of a directory that is listed the system notes the time, unless it is told not to.
#[tokio::test]
async fn who_lists_services_or_leaves_looks_at_no_agent_that_has_to_do_with_neither() {
    let meeting = Meeting::new();
    let (owner, leaver) = (meeting.join("w:0").await, meeting.join("r").await);
    owner.advertise(service("x")).await.unwrap();
    leaver.set_topology(&["w:0".to_owned()]).await.unwrap();
    let _stranger = meeting.join("stranger").await;
    let was_listed = |alias: &str| {
        let found = fs::metadata(meeting.path(alias)).unwrap();
        let (listed, changed) = (found.accessed().unwrap(), found.modified().unwrap());
        listed > changed
    };
    // From now on the next listing is noted.
    for alias in ["w:0", "stranger"] {
        let old = SystemTime::now() - Duration::from_secs(1000);
        let path = File::open(meeting.path(alias)).unwrap();
        let times = FileTimes::new().set_accessed(old).set_modified(old);
        path.set_times(times).unwrap();
    }
    assert_eq!(leaver.entities("rpc").await.unwrap(), [service("x")]);
    if !was_listed("w:0") {
        println!("skipped: this file system does not note when directories are listed");
        return;
    }
    assert!(!was_listed("stranger"), "its services were looked for");
    leaver.clean_up().await.unwrap();
    let mut mail = owner.mail();
    let left = MailEvent::Left {
        peer: "r".to_owned(),
    };
    while timeout(SOON, mail.next()).await.unwrap() != Some(left.clone()) {}
    assert!(!was_listed("stranger"));
}

/// As a process leaves it that is killed after it has removed the directory of an agent.
#[tokio::test]
async fn names_of_agents_that_are_gone_leave_the_indexes() {
    let meeting = Meeting::new();
    let (owner, reader) = (meeting.join("w:0").await, meeting.join("r").await);
    owner.advertise(service("x")).await.unwrap();
    reader.set_topology(&["w:0".to_owned()]).await.unwrap();
    let (advertising, declaring) = (meeting.path(".advertising"), meeting.path(".declaring"));
    fs::write(advertising.join("ghost"), "").unwrap();
    fs::write(declaring.join("w:0/ghost"), "").unwrap();
    fs::create_dir(declaring.join("haunted")).unwrap();
    fs::write(declaring.join("haunted/ghost"), "").unwrap();
    meeting.forget_search();
    owner.heartbeat().await.unwrap();
    let names = |path: PathBuf| -> Vec<_> {
        let entries = fs::read_dir(path).unwrap();
        entries.map(|entry| entry.unwrap().file_name()).collect()
    };
    assert_eq!(names(advertising), ["w:0"]);
    assert_eq!(names(declaring.join("w:0")), ["r"]);
    assert_eq!(names(declaring), ["w:0"]);
    assert_eq!(reader.entities("rpc").await.unwrap(), [service("x")]);
}

#[tokio::test]
async fn an_index_that_vanishes_or_is_replaced_is_written_again() {
    let meeting = Meeting::new();
    let (owner, reader) = (meeting.join("w:0").await, meeting.join("r").await);
    owner.advertise(service("x")).await.unwrap();
    let elsewhere = meeting.0.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    for junk in ["nothing", "file", "link", "pipe"] {
        for (index, writer) in [(".advertising", &owner), (".declaring", &reader)] {
            reader.set_topology(&["w:0".to_owned()]).await.unwrap();
            let path = meeting.path(index);
            fs::remove_dir_all(&path).unwrap();
            match junk {
                "file" => fs::write(&path, "7").unwrap(),
                "link" => symlink(&elsewhere, &path).unwrap(),
                "pipe" => make_pipe(&path),
                _ => {}
            }
            // Nobody stumbles over it meanwhile.
            reader.entities("rpc").await.unwrap();
            writer.heartbeat().await.unwrap();
            assert!(path.is_dir() && !path.is_symlink(), "{junk} as {index}");
            assert_eq!(reader.entities("rpc").await.unwrap(), [service("x")]);
        }
    }
    assert_eq!(fs::read_dir(elsewhere).unwrap().count(), 0);
    owner.clean_up().await.unwrap();
    let mut mail = reader.mail();
    let left = MailEvent::Left {
        peer: "w:0".to_owned(),
    };
    while timeout(SOON, mail.next()).await.unwrap() != Some(left.clone()) {}
    // Nobody is left in either.
    assert_eq!(reader.entities("rpc").await.unwrap(), []);
    reader.clean_up().await.unwrap();
    let is_gone = || !meeting.root().join("job").exists();
    until("the last one removes the indexes, too", is_gone).await;
}

#[tokio::test]
async fn fence_1_an_agent_that_has_lost_its_alias_changes_nothing() {
    let meeting = Meeting::new();
    let (loser, reader) = (meeting.join("w:0").await, meeting.join("r").await);
    // It registers again if it happens to look first.
    let owner = loop {
        fs::remove_dir_all(meeting.path("w:0")).unwrap();
        let owner = meeting.agent();
        if owner.register(named("w:0")).await.is_ok() {
            break owner;
        }
    };
    owner.publish("ring", json!("new")).await.unwrap();
    let refusals = [
        loser.publish("ring", json!("old")).await.unwrap_err(),
        loser.heartbeat().await.unwrap_err(),
        loser.send_mail("r", &Mail::new("old")).await.unwrap_err(),
    ];
    for refusal in refusals {
        assert!(
            matches!(refusal, ControlError::AliasTaken { .. }),
            "{refusal}"
        );
    }
    loser.clean_up().await.unwrap();
    let ring = reader.lookup("w:0", "ring").await.unwrap();
    assert_eq!(ring, Some(json!("new")));
    assert!(reader.peer("w:0").await.unwrap().is_some());
}

#[tokio::test]
async fn input_1_names_that_are_no_file_names_are_kept_apart() {
    let meeting = Meeting::new();
    let long = "x".repeat(256);
    for alias in [
        "..",
        ".gone",
        "~",
        "größe",
        "a b",
        "socket",
        "mail",
        &long,
        &long[1..],
    ] {
        let agent = meeting.join(alias).await;
        for name in ["../../x", "a/b", "", ".", "rpc:events:w:0:r", &long] {
            agent.publish(name, json!(name)).await.unwrap();
        }
        for name in ["../../x", "a/b", "", ".", "rpc:events:w:0:r", &long] {
            assert_eq!(agent.lookup(alias, name).await.unwrap(), Some(json!(name)));
        }
        // Not cleaned up: the next one comes beside it.
        std::mem::forget(agent);
    }
    let beside = fs::read_dir(meeting.0.path()).unwrap().count();
    assert_eq!(beside, 1, "nothing lies outside of the directory");
}

#[tokio::test]
async fn input_1_a_directory_that_is_not_ours_alone_is_refused_by_name() {
    let meeting = Meeting::new();
    let refused = |reason: &'static str| {
        let agent = meeting.agent();
        let root = meeting.root().display().to_string();
        async move {
            let error = agent.register(named("w:0")).await.expect_err(reason);
            let said = error.to_string();
            assert!(
                matches!(error, ControlError::HostDirectory { .. }),
                "{said}"
            );
            assert!(said.contains(reason) && said.contains(&root), "{said}");
        }
    };
    fs::create_dir(meeting.root()).unwrap();
    fs::set_permissions(meeting.root(), fs::Permissions::from_mode(0o777)).unwrap();
    refused("mode 777").await;
    fs::remove_dir(meeting.root()).unwrap();
    symlink(meeting.0.path(), meeting.root()).unwrap();
    refused("symbolic link").await;
    fs::remove_file(meeting.root()).unwrap();
    let deep = Host::at(meeting.root().join("missing"), "");
    let error = deep.register(named("w:0")).await.unwrap_err().to_string();
    assert!(
        error.contains("No such file") && error.contains("XDG_RUNTIME_DIR"),
        "{error}"
    );
    let long = meeting.0.path().join("x".repeat(100));
    let long = Host::at(long, "").register(named("w:0")).await;
    let error = long.unwrap_err().to_string();
    let is_advised = error.contains("XDG_RUNTIME_DIR");
    assert!(
        error.contains("too long for a socket") && is_advised,
        "{error}"
    );
    meeting.join("w:0").await;
}

#[tokio::test]
async fn input_1_junk_in_the_place_of_files_and_on_the_socket_harms_nobody_else() {
    let meeting = Meeting::new();
    let (owner, reader) = (meeting.join("w:0").await, meeting.join("r").await);
    owner.advertise(service("x")).await.unwrap();
    // The socket carries no information.
    let stranger = UnixDatagram::unbound().unwrap();
    stranger.set_nonblocking(true).unwrap();
    for size in [0, 1, 100_000] {
        let _ = stranger.send_to(&vec![b'{'; size], meeting.path("w:0").join("socket"));
    }
    // A pipe in the place of a file would block a reader for ever.
    let pipe = meeting.path("w:0").join("record-pipe");
    make_pipe(&pipe);
    let error = reader.lookup("w:0", "pipe").await.unwrap_err().to_string();
    assert!(error.contains("not a regular file"), "{error}");
    // A file that is huge, and takes no space.
    let huge = File::create(meeting.path("w:0").join("record-huge")).unwrap();
    huge.set_len(1 << 40).unwrap();
    let error = reader.lookup("w:0", "huge").await.unwrap_err().to_string();
    assert!(error.contains("longer than 1 MiB"), "{error}");
    for junk in ["", "\0\0", "{}", "[1,2]", "[\"other\",7]"] {
        fs::write(meeting.path("w:0").join("record-junk"), junk).unwrap();
        let found = reader.lookup("w:0", "junk").await;
        let is_none = matches!(found, Ok(None));
        assert!(
            is_none || matches!(found, Err(ControlError::Malformed { .. })),
            "{junk}"
        );
    }
    let elsewhere = meeting.0.path().join("elsewhere");
    fs::write(&elsewhere, "[\"link\",7]").unwrap();
    symlink(&elsewhere, meeting.path("w:0").join("record-link")).unwrap();
    assert!(reader.lookup("w:0", "link").await.is_err());
    // Those who list see the rest.
    fs::write(meeting.path("w:0").join("entity-junk"), "junk").unwrap();
    fs::write(meeting.root().join("job/a file"), "junk").unwrap();
    symlink("/", meeting.root().join("job/a link")).unwrap();
    fs::create_dir(meeting.root().join("job/empty")).unwrap();
    assert_eq!(reader.entities("rpc").await.unwrap(), [service("x")]);
    owner.clean_up().await.unwrap();
    assert!(!meeting.path("w:0").exists() && elsewhere.exists());
}

#[tokio::test]
async fn input_1_mail_that_is_none_is_skipped() {
    let meeting = Meeting::new();
    let sender = meeting.join("s").await;
    sender.send_mail("w:0", &Mail::new("first")).await.unwrap();
    let append = || {
        let mail = meeting.path("w:0").join("mail");
        fs::OpenOptions::new()
            .append(true)
            .mode(0o600)
            .open(mail)
            .unwrap()
    };
    append()
        .write_all(b"\xff\n{}\n[[[[\n{\"Mail\":{\"ki")
        .unwrap();
    sender.send_mail("w:0", &Mail::new("second")).await.unwrap();
    let huge = Mail::new("huge").with("x", "x".repeat(1 << 20));
    let error = sender
        .send_mail("w:0", &huge)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("too long") && !error.contains("XDG_RUNTIME_DIR"),
        "{error}"
    );
    let owner = meeting.join("w:0").await;
    let mut mail = owner.mail();
    for kind in ["first", "second"] {
        let event = timeout(SOON, mail.next()).await.unwrap();
        assert_eq!(event, Some(MailEvent::Mail(Mail::new(kind))));
    }
    // A mailbox that is no file is replaced by one.
    drop(mail);
    owner.clean_up().await.unwrap();
    sender.send_mail("w:1", &Mail::new("lost")).await.unwrap();
    let mailbox = File::options()
        .write(true)
        .open(meeting.path("w:1").join("mail"));
    mailbox.unwrap().set_len(1 << 40).unwrap();
    let owner = meeting.join("w:1").await;
    sender.send_mail("w:1", &Mail::new("seen")).await.unwrap();
    let seen = Some(MailEvent::Mail(Mail::new("seen")));
    assert_eq!(next_mail(&owner).await, seen);
}

#[tokio::test]
async fn input_1_what_stands_in_the_place_of_a_file_makes_way() {
    let meeting = Meeting::new();
    let (owner, sender) = (meeting.join("w:0").await, meeting.join("s").await);
    let mut events = owner.mail();
    let mailbox = meeting.path("w:0").join("mail");
    let full_directory = |path: &Path| fs::create_dir_all(path.join("more")).unwrap();
    let nowhere = |path: &Path| symlink("nowhere", path).unwrap();
    let kinds: [&dyn Fn(&Path); 3] = [&full_directory, &make_pipe, &nowhere];
    for (number, make) in kinds.iter().enumerate() {
        make(&mailbox);
        let mail = Mail::new(number.to_string());
        sender.send_mail("w:0", &mail).await.unwrap();
        let event = timeout(SOON, events.next()).await.unwrap();
        assert_eq!(event, Some(MailEvent::Mail(mail)));
        let is_empty = || fs::metadata(&mailbox).is_ok_and(|mail| mail.len() == 0);
        until("the mail is taken", is_empty).await;
        fs::remove_file(&mailbox).unwrap();
    }
    let job = meeting.root().join("job");
    for (make, alias) in kinds.iter().zip(["w:1", "w:2", "w:3"]) {
        meeting.crash(meeting.join(alias).await, alias).await;
        make(&meeting.path("w:0").join(".new"));
        for file in [".swept", ".names", ".gone"] {
            let path = job.join(file);
            let _ = fs::remove_dir_all(&path);
            let _ = fs::remove_file(&path);
            make(&path);
        }
        owner.publish("ring", json!(alias)).await.unwrap();
        meeting.join(alias).await.clean_up().await.unwrap();
        let generated = meeting.agent();
        generated.register(Registration::default()).await.unwrap();
        generated.clean_up().await.unwrap();
    }
    meeting.crash(meeting.join("w:4").await, "w:4").await;
    fs::write(job.join(".gone"), "").unwrap();
    meeting.join("w:4").await.clean_up().await.unwrap();
}

#[tokio::test]
async fn input_1_mail_that_nobody_reads_is_bounded() {
    let meeting = Meeting::new();
    let sender = meeting.join("s").await;
    let text = "x".repeat(100_000);
    for number in 0..40 {
        let mail = Mail::new(number.to_string()).with("x", &text);
        sender.send_mail("late", &mail).await.unwrap();
    }
    let kept = fs::metadata(meeting.path("late").join("mail")).unwrap();
    assert!(kept.len() <= 1 << 20, "{}", kept.len());
    let owner = meeting.join("late").await;
    let mut mail = owner.mail();
    let mut last = 0;
    while last != 39 {
        let Some(MailEvent::Mail(mail)) = timeout(SOON, mail.next()).await.unwrap() else {
            panic!("mail is expected");
        };
        let number = mail.kind.parse().unwrap();
        assert!(number > last, "the newest are kept, in order");
        last = number;
    }
}

#[tokio::test]
async fn a_process_that_keeps_the_lock_makes_the_others_fail_by_name() {
    let meeting = Meeting::new();
    let agent = meeting.join("w:0").await;
    agent.publish("old", json!(1)).await.unwrap();
    let directory = File::open(meeting.root().join("job")).unwrap();
    flock(&directory, FlockOperation::LockExclusive).unwrap();
    let error = timeout(SOON, agent.publish("ring", json!(1)))
        .await
        .unwrap();
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("kept its lock") && !error.contains("XDG_RUNTIME_DIR"),
        "{error}"
    );
    assert!(
        error.contains(&*meeting.root().to_string_lossy()),
        "{error}"
    );
    assert!(agent.withdraw("old").await.is_err());
    drop(directory);
    // What could not be done then is done with the next heartbeat.
    agent.heartbeat().await.unwrap();
    assert_eq!(agent.lookup("w:0", "ring").await.unwrap(), Some(json!(1)));
    assert_eq!(agent.lookup("w:0", "old").await.unwrap(), None);
}

#[tokio::test]
async fn a_full_disk_is_an_error_that_says_so_and_nothing_is_lost_once_there_is_space() {
    let meeting = Meeting::new();
    let Some(_mount) = Mount::at(meeting.root(), "size=64k") else {
        return;
    };
    let (agent, reader) = (meeting.join("w:0").await, meeting.join("r").await);
    agent.publish("small", json!(1)).await.unwrap();
    let ballast = meeting.root().join("ballast");
    let _ = fs::write(&ballast, vec![7; 1 << 20]);
    let large = json!("x".repeat(10_000));
    let more = Registration {
        resource: Some(large.clone()),
        ..named("more")
    };
    let refusals = [
        agent.publish("large", large.clone()).await.unwrap_err(),
        reader
            .send_mail("w:0", &Mail::new("m").with("x", "x".repeat(10_000)))
            .await
            .unwrap_err(),
        meeting.agent().register(more).await.unwrap_err(),
    ];
    for refusal in refusals {
        let said = refusal.to_string();
        assert!(
            said.contains("No space left")
                && said.contains("agents/job")
                && said.contains("with space left"),
            "{said}"
        );
    }
    assert_eq!(reader.lookup("w:0", "small").await.unwrap(), Some(json!(1)));
    fs::remove_file(ballast).unwrap();
    agent.heartbeat().await.unwrap();
    assert_eq!(reader.lookup("w:0", "large").await.unwrap(), Some(large));
    meeting.join("more").await;
}

#[tokio::test]
async fn what_crashed_agents_leave_makes_way_in_a_full_directory() {
    let meeting = Meeting::new();
    let Some(_mount) = Mount::at(meeting.root(), "nr_inodes=64") else {
        return;
    };
    let crashed = meeting.join("w:0").await;
    for name in ["1", "2", "3", "4", "5", "6"] {
        crashed.publish(name, json!(1)).await.unwrap();
    }
    meeting.crash(crashed, "w:0").await;
    meeting.forget_search();
    let ballast = |number: usize| meeting.root().join(format!("ballast-{number}"));
    let is_full = (0..64).any(|number| File::create(ballast(number)).is_err());
    assert!(is_full);
    // Nor is there a place for what says when it was searched last.
    let other = Host::at(meeting.root(), "other");
    other.register(named("x")).await.unwrap();
    assert!(!meeting.path("w:0").exists());
}

struct Mount(PathBuf);

impl Mount {
    /// A small file system at `path`; `None` if this user may not mount one.
    fn at(path: PathBuf, limit: &str) -> Option<Self> {
        fs::create_dir(&path).unwrap();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o"])
            .arg(format!("{limit},mode=700"))
            .arg("tmpfs")
            .arg(&path)
            .output();
        if !mounted.is_ok_and(|it| it.status.success()) {
            eprintln!("SKIPPED: this needs to mount a file system");
            return None;
        }
        Some(Self(path))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount")
            .arg("-l")
            .arg(&self.0)
            .output();
    }
}
