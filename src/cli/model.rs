//! The model a command works on: a folder, one that was pulled, or the demo inside the binary; and
//! opening it on a device, with progress and a way out.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use engine::config::{ModelConfig, PRESETS, preset};
use engine::load::{Checkpoint, StaticBytes};
use engine::refusal::RefusalKind;
use engine::sample::SamplingParams;
use engine::text::Tokenizer;
use engine::{Engine, ModelOptions};
use hadal::{demo, registry};
use hal::{ErrorKind, OpenOptions};
use serde::Deserialize;

use super::args::{ModelArgs, Numerics, SampleArgs};
use super::failure::{Failure, Result};
use super::hub;
use super::interrupt::Interrupt;
use super::term;

/// Context that is opened where none was asked for and the model allows it, in tokens.
const CONTEXT_USUAL: u32 = 32_768;
/// Longest generation_config.json that is read, in bytes.
const GENERATION_BYTES_MAX: u64 = 1 << 20;

/// Where a model comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// The demo inside the binary.
    Demo,
    /// A folder in Hugging Face's layout.
    Folder(PathBuf),
    /// A geometry with noise for weights.
    Synthetic {
        /// Its name.
        name: String,
        /// Its first layers; all where absent.
        layers: Option<u32>,
    },
}

impl Source {
    /// What `--model` means: nothing is the demo, a folder is itself, ORG/NAME is what was pulled.
    pub fn new(model: Option<&Path>) -> Result<Self> {
        let Some(path) = model else { return Ok(Source::Demo) };
        let name = path.to_str().filter(|name| !path.exists() && hub::is_name(name));
        let Some(name) = name else { return Ok(Source::Folder(path.to_owned())) };
        match hub::snapshot(&hub::cache()?, name, "main") {
            Some(folder) => Ok(Source::Folder(folder)),
            None => Err(Failure::new(format!(
                "{name} is neither a folder nor a model that was pulled; try `hadal pull {name}`"
            ))),
        }
    }

    /// Opens it: configuration and headers are checked, weights are mapped and not read.
    pub fn checkpoint(&self) -> Result<Checkpoint> {
        let opened = match self {
            Source::Folder(folder) => Checkpoint::open(folder),
            Source::Demo => demo_checkpoint(),
            Source::Synthetic { name, layers } => Checkpoint::synthetic(geometry(name, *layers)?),
        };
        opened.map_err(|refusal| self.place(refusal.into()))
    }

    /// Its tokenizer, of a model with `vocab` token ids.
    pub fn tokenizer(&self, vocab: u32) -> Result<Arc<Tokenizer>> {
        let tokenizer = match self {
            Source::Folder(folder) => Tokenizer::from_folder(folder),
            Source::Demo => Tokenizer::from_bytes(demo::TOKENIZER),
            Source::Synthetic { .. } => {
                return Err(self.place(Failure::new("a synthetic model has no words")));
            }
        };
        let checked = tokenizer.and_then(|tokenizer| {
            tokenizer.expect_vocabulary(vocab)?;
            Ok(Arc::new(tokenizer))
        });
        checked.map_err(|error| self.place(error.into()))
    }

    /// How its makers sample from it, with the user's wishes in place of theirs.
    pub fn sampling(&self, wishes: &SampleArgs) -> Result<SamplingParams> {
        let usual = self.usual_sampling()?;
        let temperature = match usual.do_sample {
            Some(false) => 0.0,
            _ => usual.temperature.unwrap_or(1.0),
        };
        Ok(SamplingParams {
            temperature: wishes.temperature.unwrap_or(temperature),
            top_k: wishes.top_k.or(usual.top_k).unwrap_or(0),
            top_p: wishes.top_p.or(usual.top_p).unwrap_or(1.0),
            min_p: wishes.min_p.unwrap_or(0.0),
            seed: wishes.seed,
            logprobs: None,
            stop: wishes.stop.clone(),
        })
    }

    fn usual_sampling(&self) -> Result<GenerationConfig> {
        let name = "generation_config.json";
        let bytes = match self {
            Source::Demo => demo::GENERATION.to_vec(),
            Source::Synthetic { .. } => return Ok(GenerationConfig::default()),
            Source::Folder(folder) => {
                let path = folder.join(name);
                match fs::metadata(&path) {
                    Ok(there) if there.len() <= GENERATION_BYTES_MAX => fs::read(&path)?,
                    Ok(_) => return Err(Failure::new("is too long").at(path.display())),
                    Err(_) => return Ok(GenerationConfig::default()),
                }
            }
        };
        serde_json::from_slice(&bytes).map_err(|error| self.place(Failure::new(error).at(name)))
    }

    /// The failure with this model in front, unless it names it already.
    fn place(&self, failure: Failure) -> Failure {
        let place = self.to_string();
        match &failure {
            Failure::Failed(message) if message.contains(&place) => failure,
            _ => failure.at(place),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Demo => out.write_str(demo::NAME),
            Source::Folder(folder) => write!(out, "{}", folder.display()),
            Source::Synthetic { name, layers: None } => write!(out, "synthetic {name}"),
            Source::Synthetic { name, layers: Some(layers) } => {
                write!(out, "synthetic {name}, {layers} layers")
            }
        }
    }
}

fn demo_checkpoint() -> std::result::Result<Checkpoint, engine::refusal::Refusal> {
    let file: Arc<dyn hal::ByteOwner> = Arc::new(StaticBytes(demo::weights()));
    Checkpoint::from_memory(demo::CONFIG, vec![("model.safetensors".into(), file)])
}

/// A geometry by name, cut after some layers.
fn geometry(name: &str, layers: Option<u32>) -> Result<ModelConfig> {
    let config = match name {
        "demo" => demo_checkpoint()?.config().clone(),
        _ => preset(name).ok_or_else(|| {
            let known = PRESETS.join(", ");
            Failure::new(format!("--geometry {name} is not known; known are {known}, demo"))
        })?,
    };
    let mut config = ModelConfig { mtp_blocks: 0, ..config };
    let all = config.layers.len();
    let layers = layers.map_or(all, |layers| layers as usize);
    if layers > all {
        return Err(Failure::new(format!("--layers {layers}: {name} has {all}")));
    }
    config.layers.truncate(layers);
    Ok(config)
}

/// What generation_config.json says; other keys do not concern us.
#[derive(Default, Deserialize)]
struct GenerationConfig {
    do_sample: Option<bool>,
    temperature: Option<f32>,
    top_k: Option<u32>,
    top_p: Option<f32>,
}

/// Opens a model of `source` on the device `args` name, with `options` for the rest. Where the device may
/// keep weights in several forms and none was asked for, it is the most accurate that fits. What became of
/// weights is said on standard error.
pub fn open(
    source: &Source,
    checkpoint: &Checkpoint,
    args: &ModelArgs,
    options: ModelOptions,
    interrupt: &Interrupt,
) -> Result<Engine> {
    open_watched(source, checkpoint, args, options, interrupt, None)
}

/// The same, with times of ops given to `sink` where `options` ask for them.
pub fn open_watched(
    source: &Source,
    checkpoint: &Checkpoint,
    args: &ModelArgs,
    options: ModelOptions,
    interrupt: &Interrupt,
    sink: Option<&Arc<dyn hal::Sink>>,
) -> Result<Engine> {
    let usual = CONTEXT_USUAL.min(checkpoint.config().context);
    let context = args.context.or(Some(options.context).filter(|&context| context > 0));
    let options =
        ModelOptions { numerics: numerics(args), context: context.unwrap_or(usual), ..options };
    let layers = checkpoint.config().layers.len() as u64;
    let bar = term::count_bar(&format!("loading {source}, layers"), layers);
    let mut progress = |done: u32, all: u32| {
        bar.set_length(all.into());
        bar.set_position(done.into());
        !interrupt.asked()
    };
    let forms = weight_forms(args)?;
    let choice = forms.len() > 1;
    let mut forms = forms.into_iter().peekable();
    let opened = loop {
        let form = forms.next().expect("there is at least one form");
        let device = registry::registry().open(&args.device, &settings(args, form, sink))?;
        let mut opened = Engine::open(device, checkpoint, &options, &mut progress);
        if let (Ok(engine), true) = (&mut opened, choice) {
            // Scratch of the largest step is part of what must fit.
            let rows = engine.capacity().rows;
            if let Err(error) = engine.prepare(rows, 1) {
                opened = Err(error);
            }
        }
        match &opened {
            Err(error) if is_too_large(error) && forms.peek().is_some() => {}
            _ => break opened,
        }
    };
    bar.finish_and_clear();
    let engine = opened.map_err(|error| source.place(error.into()))?;
    interrupt.check()?;
    if let Some(line) = transcoded(&engine) {
        eprintln!("{line}");
    }
    Ok(engine)
}

/// Forms to try in order; `None` where the device has no choice.
fn weight_forms(args: &ModelArgs) -> Result<Vec<Option<&str>>> {
    let forms = registry::weight_forms(&args.device);
    match args.weights.as_deref() {
        None if forms.is_empty() => Ok(vec![None]),
        None => Ok(forms.iter().copied().map(Some).collect()),
        Some(asked) if forms.contains(&asked) => Ok(vec![Some(asked)]),
        Some(asked) if forms.is_empty() => {
            let device = &args.device;
            Err(Failure::new(format!("--weights {asked}: {device} leaves no choice")))
        }
        Some(asked) => {
            let forms = forms.join(", ");
            Err(Failure::new(format!("--weights {asked}: {} has {forms}", args.device)))
        }
    }
}

fn settings(
    args: &ModelArgs,
    form: Option<&str>,
    sink: Option<&Arc<dyn hal::Sink>>,
) -> OpenOptions {
    let threads = args.threads.map(|threads| ("threads".to_owned(), threads.to_string()));
    let isa = args.isa.clone().map(|isa| ("isa".to_owned(), isa));
    let weights = form.map(|form| ("weights".to_owned(), form.to_owned()));
    let cpu = args.device.split(':').next() == Some("cpu");
    let huge = std::env::var("HADAL_CPU_HUGE_PAGES").ok().filter(|_| cpu);
    let huge = huge.map(|value| ("huge_pages".to_owned(), value));
    let settings = threads.into_iter().chain(isa).chain(weights).chain(huge).collect();
    OpenOptions { settings, sink: sink.cloned() }
}

/// Whether less memory would help.
fn is_too_large(error: &engine::Error) -> bool {
    match error {
        engine::Error::Refused(refusal) => refusal.kind() == RefusalKind::Memory,
        engine::Error::Device(error) => error.kind() == ErrorKind::OutOfMemory,
        _ => false,
    }
}

/// What the device made of weights it does not keep as they are: how many of each kind.
fn transcoded(engine: &Engine) -> Option<String> {
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    for line in engine.transcoded() {
        let (_, kind) = line.split_once(": ").unwrap_or(("", line));
        *kinds.entry(kind).or_default() += 1;
    }
    let kinds: Vec<String> =
        kinds.iter().map(|(kind, count)| format!("{count} of {kind}")).collect();
    let device = registry::name_of(engine.device().info());
    (!kinds.is_empty()).then(|| format!("{device} keeps weights otherwise: {}", kinds.join(", ")))
}

fn numerics(args: &ModelArgs) -> engine::Numerics {
    match args.numerics {
        Numerics::Served => engine::Numerics::Served,
        Numerics::Plain => engine::Numerics::Plain,
    }
}
