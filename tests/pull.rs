//! `hadal pull` against a hub of our own on this machine: whole downloads, transfers that break off,
//! wrong checksums, refusals. Nothing here reaches a network.

mod hub;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use hub::{Hub, Trouble};

/// A folder of this test, empty at first and removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("hadal-pull-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).expect("a writable temporary folder");
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs `hadal pull tests/demo` against `hub` with its cache under `home`.
fn pull(hub: &Hub, home: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hadal"));
    for proxy in ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "ALL_PROXY", "HF_TOKEN"]
    {
        command.env_remove(proxy);
    }
    command
        .args(["pull", "tests/demo"])
        .env("HF_ENDPOINT", hub.endpoint())
        .env("HF_HOME", home)
        .output()
        .expect("the binary was built")
}

/// The folder a successful pull printed.
fn folder_of(output: &Output) -> PathBuf {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
}

/// The one line a failed pull printed last.
fn error_of(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let line = text.lines().last().expect("an error line").to_owned();
    assert!(line.starts_with("error: "), "{text}");
    line
}

fn assert_complete(folder: &Path, hub: &Hub) {
    for (name, bytes) in hub.files() {
        let there = fs::read(folder.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(there == *bytes, "{name} differs");
    }
}

#[test]
fn a_model_arrives_whole_and_inspects() {
    let (hub, home) = (Hub::start(Trouble::None), Folder::new("whole"));
    let folder = folder_of(&pull(&hub, &home.0));
    assert_complete(&folder, &hub);
    let inspected = Command::new(env!("CARGO_BIN_EXE_hadal"))
        .args(["inspect", "tests/demo"])
        .env("HF_HOME", &home.0)
        .output()
        .expect("the binary was built");
    assert!(inspected.status.success(), "{inspected:?}");
}

#[test]
fn a_second_pull_transfers_no_weights() {
    let (hub, home) = (Hub::start(Trouble::None), Folder::new("again"));
    folder_of(&pull(&hub, &home.0));
    let sent = hub.bytes_sent("model.safetensors");
    folder_of(&pull(&hub, &home.0));
    assert_eq!(hub.bytes_sent("model.safetensors"), sent);
}

#[test]
fn a_transfer_that_breaks_off_goes_on_where_it_stopped() {
    let (hub, home) = (Hub::start(Trouble::BreakOff { after: 300_000 }), Folder::new("broken"));
    let folder = folder_of(&pull(&hub, &home.0));
    assert_complete(&folder, &hub);
    let length = hub.file("model.safetensors").len() as u64;
    let sent = hub.bytes_sent("model.safetensors");
    // Each request also asks for one byte to learn the size.
    assert!(sent < length + 100, "{sent} bytes were sent for a file of {length}");
    assert!(hub.requests("model.safetensors") > 4);
}

#[test]
fn a_later_pull_resumes_an_earlier_one() {
    let home = Folder::new("later");
    let hub = Hub::start(Trouble::Dead { after: 1_000_000 });
    let error = error_of(&pull(&hub, &home.0));
    assert!(error.contains("model.safetensors"), "{error}");
    hub.set(Trouble::None);
    let before = hub.bytes_sent("model.safetensors");
    let folder = folder_of(&pull(&hub, &home.0));
    assert_complete(&folder, &hub);
    let sent = hub.bytes_sent("model.safetensors") - before;
    let length = hub.file("model.safetensors").len() as u64;
    assert!(sent <= length - 1_000_000 + 100, "{sent} of {length} were sent again");
}

#[test]
fn a_finished_part_is_taken_over() {
    let (hub, home) = (Hub::start(Trouble::None), Folder::new("finished"));
    let blobs = home.0.join("hub/models--tests--demo/blobs");
    fs::create_dir_all(&blobs).expect("a writable temporary folder");
    let part = blobs.join(format!("{}.part", hub.sha256("model.safetensors")));
    fs::write(&part, hub.file("model.safetensors")).expect("a writable temporary folder");
    let folder = folder_of(&pull(&hub, &home.0));
    assert_complete(&folder, &hub);
    assert!(hub.bytes_sent("model.safetensors") < 100);
}

#[test]
fn a_wrong_checksum_is_an_error_and_leaves_nothing_behind() {
    let (hub, home) = (Hub::start(Trouble::FlippedByte), Folder::new("wrong"));
    let error = error_of(&pull(&hub, &home.0));
    assert!(error.contains("model.safetensors") && error.contains("checksum"), "{error}");
    hub.set(Trouble::None);
    assert_complete(&folder_of(&pull(&hub, &home.0)), &hub);
}

#[test]
fn an_incomplete_snapshot_has_no_name() {
    let (hub, home) = (Hub::start(Trouble::FlippedByte), Folder::new("nameless"));
    error_of(&pull(&hub, &home.0));
    assert!(!home.0.join("hub/models--tests--demo/refs/main").exists());
}

#[test]
fn damage_on_disk_is_found_and_repaired() {
    let (hub, home) = (Hub::start(Trouble::None), Folder::new("damage"));
    let path = folder_of(&pull(&hub, &home.0)).join("model.safetensors");
    let mut bytes = fs::read(&path).expect("pulled");
    bytes[12_345] ^= 1;
    fs::write(&path, bytes).expect("our own folder");
    assert_complete(&folder_of(&pull(&hub, &home.0)), &hub);
}

#[test]
fn another_architecture_is_refused_before_its_weights() {
    let hub = Hub::start(Trouble::OtherModel);
    let home = Folder::new("other");
    let error = error_of(&pull(&hub, &home.0));
    assert!(error.contains("llama"), "{error}");
    assert_eq!(hub.bytes_sent("model.safetensors"), 0);
}

#[test]
fn refusals_say_what_to_do() {
    for (trouble, want) in [
        (Trouble::Status(404), "no such model"),
        (Trouble::Status(401), "HF_TOKEN"),
        (Trouble::Status(503), "try later"),
    ] {
        let (hub, home) = (Hub::start(trouble), Folder::new("refused"));
        let error = error_of(&pull(&hub, &home.0));
        assert!(error.contains(want), "{error}");
    }
}

#[test]
fn names_from_the_network_stay_in_their_folder() {
    let (hub, home) = (Hub::start(Trouble::HostileNames), Folder::new("hostile"));
    let folder = folder_of(&pull(&hub, &home.0));
    let names: Vec<_> = fs::read_dir(folder)
        .expect("pulled")
        .map(|entry| entry.expect("readable").file_name().into_string().expect("UTF-8"))
        .collect();
    assert!(names.iter().all(|name| hub.files().any(|(known, _)| known == name)), "{names:?}");
}
