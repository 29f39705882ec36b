//! How long published clients take to dial the published machine server and our machine: on one cable, in one run, in turn.
//!
//! The server boots as one that lost the internet, and then tries to reach its cloud without a pause, with both processors of a small computer. That
//! is part of what whoever dials it meets, but no burden of ours: it stands still (SIGSTOP) while ours is dialed, and has a moment before it is
//! dialed again. Whatever becomes of the run, it ends with it: killed when its process is dropped, and with the namespaces.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::legs::{judged, spread};
use super::one_cable::OneCable;
use super::places::pair;
use super::stock::{self, Stock};
use super::{Row, go, python, rust_utils, step};
use crate::Outcome;
use crate::e2e::Stage;
use crate::lab::run;
use crate::observer::now;
use crate::processes::{Built, KEY, KEY_ID, Machine, MachineOptions, Running};

/// What the machines are called where they are asked themselves. No client takes these names for those of a cloud's machines, nor for those of its
/// own computer: for the one it would ask the cloud for signaling, for the other use no WebRTC.
const THEIRS: &str = "stock.example";
const OURS: &str = "rover.example";
/// What a second one of ours is called, which announces its name as the server does its own.
const NAMED: &str = "rover-main.loc1.viam.cloud";
const PORTS: [u16; 2] = [8081, 8082];
/// So many dials to one machine, then as many to the other; so often.
const BLOCK: usize = 5;
const BLOCKS: usize = 4;
/// No further blocks are begun after that long, once there are two.
const PATIENCE: Duration = Duration::from_secs(90);
/// What a machine has from its start, or from when it stood still, to the first dial.
const MOMENT: Duration = Duration::from_secs(1);
/// A dial that takes so long, in seconds, is one of those that wait for something to be tried again.
const SLOW: f64 = 0.9;

/// A client as a command that is complete but for what each of its runs adds; or why there is none.
type Client = Result<Command, Box<dyn std::error::Error>>;

/// Finds or builds one.
type Find = fn(&Path) -> Client;

/// How a client is told of a machine.
#[derive(Clone, Copy)]
struct Kind {
    name: &'static str,
    theirs: &'static str,
    ours: &'static str,
    /// What the client's program is told besides.
    how: Option<&'static str>,
    /// Whether ours has to hold a client's bars: what looking for a name takes is the client's own.
    judged: bool,
}

/// Over WebRTC by the machine's own signaling, and without it; and by what a user knows, the name, which is looked for by mDNS. The Go client then
/// uses WebRTC, the others none.
const KINDS: [Kind; 3] = [
    Kind { name: "WebRTC", theirs: "stock.example:8080", ours: "rover.example:8081", how: None, judged: true },
    Kind {
        name: "direct",
        theirs: "stock.example:8080",
        ours: "rover.example:8081",
        how: Some("direct"),
        judged: true,
    },
    Kind { name: "by name", theirs: stock::NAME, ours: NAMED, how: Some("named"), judged: false },
];

/// Every client in every way.
pub fn inside(root: &Path, built: &Built, folder: &Path) -> Result<Vec<Row>, Box<dyn std::error::Error>> {
    let place = Place::start(root, built, folder)?;
    let mut rows = Vec::new();
    let mut failed = Vec::new();
    // What the Go client takes is its own: it waits for what others do not.
    let clients: [(&str, Find, bool); 3] = [
        ("Go client", |root| Ok(Command::new(go::program(root)?)), false),
        ("viam-rust-utils", |root| Ok(Command::new(rust_utils::program(root)?)), true),
        ("Python SDK", python::client_program, true),
    ];
    for (client, program, bars) in clients {
        for kind in KINDS {
            let name = format!("dials in turn, {client}, {}", kind.name);
            let row = match program(root) {
                Err(why) => Row::of(&name, format!("not run, no client: {why}")),
                Ok(command) => {
                    let (theirs, ours) = place.in_turn(command, kind).map_err(|e| format!("{name}: {e}"))?;
                    failed.extend(ours.passes(bars && kind.judged).err().map(|why| format!("{name}: {why}")));
                    row(&name, &theirs, &ours)
                }
            };
            println!("{}: {}", row.row, row.result);
            rows.push(row);
        }
    }
    if failed.is_empty() { Ok(rows) } else { Err(failed.join("\n").into()) }
}

/// Both machines on one host, and clients on the other.
struct Place {
    cable: OneCable,
    /// Or why it does not run.
    stock: Result<Stock, String>,
    ours: Machine,
    _named: Machine,
    folder: PathBuf,
}

/// What one side's dials took, in seconds, and why others failed.
#[derive(Default)]
struct Side {
    took: Vec<f64>,
    failed: Vec<String>,
}

impl Place {
    fn start(root: &Path, built: &Built, folder: &Path) -> Result<Self, Box<dyn std::error::Error>> {
        let cable = OneCable::new(&Stage::new(built.clone(), folder.to_path_buf(), false, 1))?;
        let hosts = folder.join("hosts");
        fs::write(&hosts, format!("127.0.0.1 localhost\n10.1.0.1 {THEIRS} {OURS}\n"))?;
        run(&format!("mount --bind {} /etc/hosts", hosts.display()))?;
        // Some ask by mDNS as whoever has a default route does.
        cable.client.ip("route add 224.0.0.0/4 dev eth0")?;
        let start = |name: &str, port: u16, arguments: &[&str]| {
            let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
            let (port, host) = (Some(port), Some(cable.server.clone()));
            let options = MachineOptions { arguments, port, host, ..MachineOptions::default() };
            Machine::start(built, &folder.join(name), name, &options)
        };
        let (ours, named) = (start(OURS, PORTS[0], &["--no-mdns"])?, start(NAMED, PORTS[1], &[])?);
        let stock = go::machine_program(root)
            .and_then(|program| Stock::start_as(THEIRS, &program, &cable.server, &folder.join("stock")))
            .map_err(|e| e.to_string());
        // What every client is to trust.
        let mut trusted = fs::read_to_string(ours.ca())? + &fs::read_to_string(named.ca())?;
        if stock.is_ok() {
            trusted.push_str(&fs::read_to_string(folder.join("stock/ca.pem"))?);
        }
        fs::write(folder.join("trusted.pem"), trusted)?;
        Ok(Self { cable, stock, ours, _named: named, folder: folder.to_path_buf() })
    }

    /// Blocks of dials to either. One to each before that counts for neither: programs load what they need at their first.
    fn in_turn(&self, mut command: Command, kind: Kind) -> Result<(Side, Side), Box<dyn std::error::Error>> {
        let since = now();
        let mut caller = self.caller(&mut command, kind)?;
        let (mut theirs, mut ours) = (Side::default(), Side::default());
        self.theirs(&mut caller, kind.theirs, 1, &mut Side::default())?;
        self.ours(&mut caller, kind.ours, 1, &mut Side::default())?;
        let until = Instant::now() + PATIENCE;
        for block in 0..BLOCKS {
            if block < 2 || Instant::now() < until {
                self.theirs(&mut caller, kind.theirs, BLOCK, &mut theirs)?;
                self.ours(&mut caller, kind.ours, BLOCK, &mut ours)?;
            }
        }
        drop(caller.input);
        caller.running.wait(Duration::from_secs(10))?;
        if kind.how.is_none() {
            pair(&self.ours, since)?;
        }
        Ok((theirs, ours))
    }

    /// Of the published server, which goes on.
    fn theirs(&self, caller: &mut Caller, address: &str, times: usize, side: &mut Side) -> Outcome {
        match &self.stock {
            Err(why) => side.failed.push(why.clone()),
            Ok(stock) => {
                stock.stand_still(false)?;
                sleep(MOMENT);
                (0..times).try_for_each(|_| caller.dial(address, side))?;
            }
        }
        Ok(())
    }

    /// Of ours, beside which the published server stands still.
    fn ours(&self, caller: &mut Caller, address: &str, times: usize, side: &mut Side) -> Outcome {
        if let Ok(stock) = &self.stock {
            stock.stand_still(true)?;
        }
        sleep(MOMENT);
        (0..times).try_for_each(|_| caller.dial(address, side))
    }

    /// A client that waits to be told whom to dial.
    fn caller(&self, command: &mut Command, kind: Kind) -> Result<Caller, Box<dyn std::error::Error>> {
        let log = File::options().create(true).append(true).open(self.folder.join("client.log"))?;
        command.args(["-", KEY_ID, KEY, "told"]).args(kind.how);
        command.env("SSL_CERT_FILE", self.folder.join("trusted.pem")).env("HOME", &self.folder);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
        let mut running = self.cable.client.start("the client", command)?;
        let (input, lines) = (running.input()?, Box::new(running.lines()?));
        Ok(Caller { running, input, lines })
    }
}

/// A client that dials whom it is told to.
struct Caller {
    running: Running,
    input: ChildStdin,
    lines: Box<dyn Iterator<Item = std::io::Result<String>>>,
}

impl Caller {
    fn dial(&mut self, address: &str, side: &mut Side) -> Outcome {
        writeln!(self.input, "{address}")?;
        let told = step(&mut self.lines, "dialed")?;
        match told["seconds"].as_f64() {
            Some(seconds) => side.took.push(seconds),
            None => side.failed.push(format!("{address}: {}", told["error"])),
        }
        Ok(())
    }
}

impl Side {
    /// What is asked of our machine: no dial fails; with `bars` also what is asked of it where it is dialed alone.
    fn passes(&self, bars: bool) -> Outcome {
        if let Some(why) = self.failed.first() {
            return Err(format!("{} dials failed: {why}", self.failed.len()).into());
        }
        if bars { judged(&self.took) } else { Ok(()) }
    }

    fn slow(&self) -> usize {
        self.took.iter().filter(|took| **took >= SLOW).count()
    }

    /// In words, and as figures whose names begin with whose they are.
    fn tell(&self, whose: &str, figures: &mut BTreeMap<String, f64>) -> String {
        let mut figure = |name: &str, value: f64| figures.insert(format!("{whose}_{name}"), value);
        figure("dials", self.took.len() as f64);
        figure("failed", self.failed.len() as f64);
        let failed = self.failed.first().map(|why| format!("{} failed, the first: {why}", self.failed.len()));
        let Ok((median, worst)) = spread(&self.took) else {
            return format!("{whose} not run: {}", failed.unwrap_or_default());
        };
        figure("median_ms", median * 1e3);
        figure("worst_ms", worst * 1e3);
        figure("slow_share", self.slow() as f64 / self.took.len() as f64);
        let slow = format!("{} of {} took {SLOW} s or more", self.slow(), self.took.len());
        let failed = failed.map(|failed| format!("; {failed}")).unwrap_or_default();
        format!("{whose} {:.1} ms (worst {:.1}; {slow}{failed})", median * 1e3, worst * 1e3)
    }
}

/// Both sides' medians, and that of ours divided by theirs.
fn row(name: &str, theirs: &Side, ours: &Side) -> Row {
    let mut figures = BTreeMap::new();
    let (said, our) = (theirs.tell("theirs", &mut figures), ours.tell("ours", &mut figures));
    let ratio = figures.get("ours_median_ms").zip(figures.get("theirs_median_ms")).map(|(ours, theirs)| ours / theirs);
    let told = ratio.map(|ratio| format!(", ratio {ratio:.3}")).unwrap_or_default();
    figures.extend(ratio.map(|ratio| ("ratio".to_owned(), ratio)));
    Row { figures, ..Row::of(name, format!("median {said}, {our}{told}")) }
}
