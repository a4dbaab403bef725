//! `hadal serve`: the model behind an HTTP server that speaks DeepSeek's two dialects.
//!
//! Refused: to listen beyond this machine without a key, unless that is asked for by name.

mod files;
mod options;

use std::fs;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use engine::sample::SamplingParams;
use engine::text::chat::EffortTable;
use engine::{Engine, ModelOptions};
use hadal::registry;
use server::grammar::Grammars;
use server::http::{App, Bounds, Counts, Keys, Room, listen};
use server::job::Worker;
use server::limits::{BACKLOG, BODY_BYTES_MAX, SILENCE};
use server::model::{Model, Secret};
use server::names::Names;
use server::worker::{self, Client, WorkerOptions};
use tokio::net::{TcpListener, TcpSocket};

use super::args::SampleArgs;
use super::failure::{Failure, Result};
use super::interrupt::Interrupt;
use super::model::{self, Source};

pub use options::ServeOptions;

/// Where the server listens if nothing else is said: this machine only.
const HOST_USUAL: &str = "127.0.0.1";
const PORT_USUAL: u16 = 8080;
/// Context where none was asked for: agents begin with tens of thousands of tokens.
const CONTEXT_USUAL: u32 = 65_536;
/// Answers in the making at once.
const SEQUENCES_USUAL: u32 = 16;
/// Layers from which on a model is called V4-Pro (V4-Flash has 43).
const LAYERS_PRO: usize = 50;
/// Longest file of keys, in bytes.
const KEYS_BYTES_MAX: u64 = 1 << 20;
/// How often the server looks whether it is asked to stop.
const LOOK: Duration = Duration::from_millis(50);
/// How long a halted worker's last messages may take to reach their readers.
const FAREWELL: Duration = Duration::from_secs(2);
/// Threads that read requests: JSON, encoding, grammars.
const READERS: usize = 4;

/// Serves until it is asked to stop.
pub fn serve(options: ServeOptions) -> Result<()> {
    let options = options.with_file()?;
    let interrupt = Interrupt::install_for_service()?;
    start_log(&options)?;
    let keys = keys(options.api_key_file.as_deref())?;
    let address = address(&options, &keys)?;
    let cors = match &options.cors {
        None => None,
        Some(origin) => Some(origin.parse().map_err(|_| {
            Failure::new(format!("--cors: {origin:?} is no origin; try https://example.org or *"))
        })?),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(READERS)
        .enable_all()
        .build()?;
    // Bound before the model is loaded: a port that is taken is known at once.
    let listener = runtime
        .block_on(async { bind(address) })
        .map_err(|error| Failure::new(format!("cannot listen on {address}: {error}")))?;
    let address = listener.local_addr()?;
    let opened = open(&options, &interrupt)?;
    let app = Arc::new(App {
        model: Arc::new(opened.model),
        worker: opened.client.clone() as Arc<dyn Worker>,
        stats: {
            let client = opened.client.clone();
            Box::new(move || client.stats())
        },
        experts: opened.client.experts(),
        keys,
        cors,
        room: Room::new(options.body_bytes.map_or(BODY_BYTES_MAX, |bytes| bytes as usize)),
        silence: SILENCE,
        counts: Arc::new(Counts::default()),
        device: opened.device,
        started: Instant::now(),
        stopping: AtomicBool::new(false),
    });
    eprintln!("{} is served on http://{address}", app.model.names.canonical());
    let grace = Duration::from_secs(options.grace.unwrap_or(30));
    runtime.block_on(run(app, listener, &opened.client, &interrupt, grace));
    opened.thread.join();
    Ok(())
}

/// As [`TcpListener::bind`], with room for more who come at once.
fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves, then ends what is live within `grace`, then what is left.
async fn run(
    app: Arc<App>,
    listener: TcpListener,
    client: &Arc<Client>,
    interrupt: &Interrupt,
    grace: Duration,
) {
    let (leave, mut left) = tokio::sync::watch::channel(false);
    let stopping = app.clone();
    let stop = async move {
        let _ = left.wait_for(|leave| *leave).await;
        stopping.stopping.store(true, Ordering::Relaxed);
    };
    let bounds = Bounds { connections: files::connections(), ..Bounds::default() };
    let served = tokio::spawn(listen(app, listener, bounds, stop, grace + FAREWELL));
    let mut reported = false;
    while !interrupt.asked() {
        tokio::time::sleep(LOOK).await;
        if !reported && let Some(failure) = client.closed() {
            reported = true;
            tracing::error!(
                ?failure,
                "the worker has ended; the server answers nothing until it is restarted"
            );
        }
    }
    tracing::info!("stopping: what is being answered is finished first");
    client.drain();
    let _ = leave.send(true);
    let mut served = served;
    if tokio::time::timeout(grace, &mut served).await.is_err() {
        tracing::warn!("some answers took too long and are ended");
        client.halt();
        let _ = tokio::time::timeout(FAREWELL, served).await;
    }
    client.halt();
}

/// A model that is ready to answer.
struct Opened {
    model: Model,
    client: Arc<Client>,
    thread: worker::Thread,
    device: String,
}

fn open(options: &ServeOptions, interrupt: &Interrupt) -> Result<Opened> {
    let args = options.model_args();
    let source = Source::new(args.model.as_deref())?;
    let thinking_params = thinking_params(&source, options)?;
    let efforts = efforts(options.efforts.as_deref())?;
    let checkpoint = source.checkpoint()?;
    let config = checkpoint.config();
    let tokenizer = source.tokenizer(config.vocab)?;
    let grammars = Grammars::new(&tokenizer).map_err(Failure::new)?;
    let names = names(options, config.layers.len());
    let sequences = options.sequences.unwrap_or(SEQUENCES_USUAL);
    let context = args.context.unwrap_or(CONTEXT_USUAL.min(config.context));
    let asked = ModelOptions {
        context,
        sequences,
        tokens: options.tokens.unwrap_or(u64::from(context) * u64::from(sequences.min(2))),
        rows_max: options.step_rows.unwrap_or(ModelOptions::default().rows_max),
        count_experts: true,
        ..ModelOptions::default()
    };
    let engine = model::open(&source, &checkpoint, &args, asked, interrupt)?;
    let device = registry::name_of(engine.device().info());
    let model = Model {
        names,
        tokenizer: tokenizer.clone(),
        efforts,
        context: usable_context(&engine),
        thinking_params,
        strict_reasoning: options.strict_reasoning,
        grammars,
        replays: Arc::default(),
        created: server::model::RELEASED_S,
        fingerprint: server::model::fingerprint(engine.identity()),
        secret: secret(options)?,
    };
    let (client, thread) = worker::spawn(engine, tokenizer, &worker_options(options))?;
    Ok(Opened { model, client, thread, device })
}

fn worker_options(options: &ServeOptions) -> WorkerOptions {
    let usual = WorkerOptions::default();
    let bytes = |mib: Option<u32>, usual: u64| mib.map_or(usual, |mib| u64::from(mib) << 20);
    WorkerOptions {
        queue_max: options.queue.unwrap_or(usual.queue_max),
        cache_bytes: bytes(options.cache_mib, usual.cache_bytes),
        cache_folder: options.cache_dir.clone(),
        cache_folder_bytes: bytes(options.cache_dir_mib, usual.cache_folder_bytes),
        ..usual
    }
}

/// The key of namespaces lives as long as what is cached under it.
fn secret(options: &ServeOptions) -> Result<Secret> {
    match &options.cache_dir {
        None => Ok(Secret::fresh()?),
        Some(folder) => {
            Secret::kept_in(folder).map_err(|error| Failure::new(error).at(folder.display()))
        }
    }
}

fn usable_context(engine: &Engine) -> u32 {
    match engine.options().context {
        0 => engine.config().context,
        context => context,
    }
}

fn names(options: &ServeOptions, layers: usize) -> Names {
    let usual = if layers >= LAYERS_PRO { "deepseek-v4-pro" } else { "deepseek-v4-flash" };
    let name = options.name.as_deref().filter(|name| !name.is_empty()).unwrap_or(usual);
    Names::new(name, &options.alias, !options.no_legacy_names)
}

fn thinking_params(source: &Source, options: &ServeOptions) -> Result<SamplingParams> {
    let wishes = SampleArgs {
        max_tokens: None,
        temperature: options.thinking_temperature,
        top_k: None,
        top_p: None,
        min_p: None,
        seed: None,
        stop: Vec::new(),
    };
    let params = source.sampling(&wishes)?;
    params.check().map_err(Failure::new)?;
    Ok(params)
}

fn efforts(release: Option<&str>) -> Result<EffortTable> {
    match release {
        None | Some("preview") => Ok(EffortTable::PREVIEW),
        Some("0731") => Ok(EffortTable::RELEASE_0731),
        Some(other) => {
            Err(Failure::usage(format!("--efforts: {other:?} is neither preview nor 0731")))
        }
    }
}

/// The keys of a file, and that of the environment.
fn keys(file: Option<&Path>) -> Result<Keys> {
    let mut keys: Vec<String> = std::env::var("HADAL_API_KEY").ok().into_iter().collect();
    if let Some(path) = file {
        let place = path.display();
        let length = fs::metadata(path).map_err(|error| Failure::new(error).at(&place))?.len();
        if length > KEYS_BYTES_MAX {
            return Err(Failure::new("is too long for a file of keys").at(place));
        }
        let text = fs::read_to_string(path).map_err(|error| Failure::new(error).at(&place))?;
        let lines = text.lines().map(str::trim);
        let before = keys.len();
        keys.extend(
            lines.filter(|line| !line.is_empty() && !line.starts_with('#')).map(Into::into),
        );
        if keys.len() == before {
            return Err(Failure::new("holds no key; write one on a line of its own").at(place));
        }
    }
    Ok(Keys::new(keys))
}

/// Where to listen, if that is safe.
fn address(options: &ServeOptions, keys: &Keys) -> Result<SocketAddr> {
    let host = options.host.as_deref().unwrap_or(HOST_USUAL);
    let port = options.port.unwrap_or(PORT_USUAL);
    let address = match host.parse::<IpAddr>() {
        Ok(ip) => SocketAddr::new(ip, port),
        Err(_) => {
            (host, port).to_socket_addrs().ok().and_then(|mut found| found.next()).ok_or_else(
                || Failure::new(format!("--host: {host:?} is no address of a machine")),
            )?
        }
    };
    if !address.ip().is_loopback() && keys.is_empty() && !options.insecure_no_key {
        return Err(Failure::new(format!(
            "{host} can be reached from other machines and there is no API key: give \
             --api-key-file FILE or HADAL_API_KEY, or say --insecure-no-key"
        )));
    }
    Ok(address)
}

fn start_log(options: &ServeOptions) -> Result<()> {
    let level = options.log.as_deref().unwrap_or("info");
    let level: tracing::Level = level.parse().map_err(|_| {
        Failure::usage(format!("--log: {level:?} is none of error, warn, info, debug, trace"))
    })?;
    let log = tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr);
    let started = if options.log_json {
        log.json().flatten_event(true).with_ansi(false).try_init()
    } else {
        log.with_ansi(false).with_target(false).try_init()
    };
    started.map_err(|error| Failure::new(format!("the log cannot be started: {error}")))
}
