"""A sweep on a dask cluster: what a worker that is killed had begun, another one finishes, to the same bits."""

import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from faulty_plugin import STEPS, job, logged, plug_in

from eltbench.evidence import results
from eltbench.execution import cluster, gpus
from eltbench.execution.cache import tensors
from eltbench.execution.cluster import Dask, described
from eltbench.execution.collect import collect
from eltbench.execution.executors import opened
from eltbench.execution.progress import Lines
from eltbench.execution.store import RunStore
from eltbench.execution.sweep import sweep

PATIENCE = 1500  # seconds for what takes some twenty on an idle machine
TOLD = ("host", "time", "git_commit", "git_dirty", "package_version", "libraries")

# in a process of its own, as a user would start it; a second client knows the cluster by its address
COMMAND = """
import json, sys
from dataclasses import asdict
from faulty_plugin import job
from eltbench.execution.executors import opened
from eltbench.execution.store import RunStore
from eltbench.execution.sweep import sweep
file, store, options = sys.argv[1], RunStore(sys.argv[2]), json.loads(sys.argv[3])
jobs = [job(seed, **its) for seed, its in enumerate(options)]
with opened("dask", file, workers=1) as batch:
    batch.client.wait_for_workers(2)
    with opened("dask", batch.client.scheduler.address, workers=1) as executor:
        print(json.dumps([asdict(sweep(jobs, store, executor=executor)) for _ in range(2)]))
"""

JOBS = """
kind = "local"   # jobs are processes of this machine
jobs = 2

[options]
cores = 1
memory = "1GB"
local_directory = "{folder}"
worker_extra_args = ["--no-dashboard"]
scheduler_options = {{ host = "127.0.0.1", dashboard_address = ":0" }}
"""


@pytest.fixture
def plugin(monkeypatch, tmp_path):
    plug_in(monkeypatch, tmp_path / "plugin")


def made(jobs, store):
    """What the runs left: every tensor, and every row but where and when it was measured."""
    weights = [tensors(store.directory(each.run_id) / "checkpoint.safetensors") for each in jobs]
    rows = collect(jobs, store, "weighing", "tiny", {"role": results.pa.string(), "turn": results.pa.int64()})
    return weights, rows.drop(columns=list(TOLD)).astype(object).fillna("").to_dict("records")


@pytest.mark.slow
def test_a_killed_worker_loses_nothing_and_changes_no_bit(tmp_path, plugin):
    log, killed = tmp_path / "log", tmp_path / "killed"
    # the first run kills the worker that started it, at its third step, after a checkpoint at the second
    options = [{"log": str(log), "kills": str(killed)}, {}]
    jobs = [job(seed, **its) for seed, its in enumerate(options)]
    there, here = RunStore(tmp_path / "there"), RunStore(tmp_path / "here")
    (tmp_path / "cluster.toml").write_text(JOBS.format(folder=tmp_path))
    command = [sys.executable, "-c", COMMAND, str(tmp_path / "cluster.toml"), str(there.root), json.dumps(options)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    first, again = json.loads(done.stdout)
    ids = [each.run_id for each in jobs]
    assert (sorted(first["done"] + first["cached"]), first["failed"]) == (sorted(ids), {})
    assert (again["cached"], again["failed"]) == (ids, {})
    assert killed.exists()
    assert len(set(logged(log))) == 2  # begun by one process, gone on with by another
    assert len(logged(log)) == STEPS + 1  # from the checkpoint, not from the beginning
    assert not list(there.root.glob("*.tmp"))

    assert not sweep(jobs, here, progress=Lines()).failed
    assert made(jobs, there) == made(jobs, here)


class Clients:
    """A cluster whose workers answer what they are told to, for what is refused before any work."""

    def __init__(self, *answers):
        self.answers = answers

    def run(self, function, *arguments, on_error):
        return dict(enumerate(self.answers))


class Pending:
    """Futures of which none is ever done."""

    def is_empty(self):
        return False

    def has_ready(self):
        return False


class TestRefusals:
    def test_workers_that_do_not_see_the_run_cache(self, tmp_path):
        said = cluster.greeting(str(tmp_path / "nowhere" / "sweep-1.tmp"), cluster.eltbench.__version__)
        assert f"does not see {tmp_path / 'nowhere'}: give --runs a folder that all machines share" in said

    def test_workers_of_another_version(self, tmp_path):
        (tmp_path / "sweep-1.tmp").touch()
        assert "the sweep has 9.9: install one version" in cluster.greeting(str(tmp_path / "sweep-1.tmp"), "9.9")

    def test_one_worker_in_its_place_and_one_not(self):
        cluster.refuse_strangers(Clients("", ""), "mark", "1")
        with pytest.raises(ValueError, match="cannot work for this sweep: ModuleNotFoundError: no eltbench; blind"):
            cluster.refuse_strangers(Clients("", "blind", ModuleNotFoundError("no eltbench")), "mark", "1")

    def test_engine_dask_without_an_address(self):
        with pytest.raises(ValueError, match="--engine dask: give --scheduler an address"), opened("dask", "", 1):
            pass

    @pytest.mark.slow
    def test_an_address_where_nothing_answers(self, monkeypatch):
        monkeypatch.setattr(cluster, "ANSWER", 0.2)
        with ExitStack() as held, pytest.raises(ValueError, match=r"no dask scheduler answers at 'tcp://127.0.0.1:9'"):
            _ = Dask("tcp://127.0.0.1:9", held).client

    def test_dask_that_is_not_installed(self, monkeypatch):
        def missing(name):
            raise ImportError(name)

        monkeypatch.setattr(cluster, "import_module", missing)
        with pytest.raises(ValueError, match=r"pip install 'eltbench\[cluster\]'"), opened("dask", "tcp://a:1", 1):
            pass

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("kind = 'slrum'\njobs = 1", "unknown kind of cluster 'slrum'; did you mean 'slurm'?"),
            ("kind = 'slurm'\njobs = 0", "jobs must be at least 1, given 0"),
            ("kind = 'slurm'\njobs = 1\nwait_minutes = 0", "wait_minutes must be above 0, given 0"),
            ("kind = 'slurm'", "jobs is missing"),
            ("kind = 'slurm'\njobs = 1\nworkers = 2", "unknown description field 'workers'"),
            ("kind = ", "Invalid value"),
        ],
    )
    def test_a_file_that_describes_no_cluster(self, tmp_path, text, words):
        path = tmp_path / "cluster.toml"
        path.write_text(text)
        with pytest.raises(ValueError, match="cluster file") as refused:
            described(path)
        assert words in str(refused.value)
        assert str(path) in str(refused.value)

    def test_options_that_the_batch_system_does_not_know(self, tmp_path):
        path = tmp_path / "cluster.toml"
        path.write_text("kind = 'slurm'\njobs = 1\noptions = {cores = 1, memory = '1GB', qeue = 'gpu'}")
        with pytest.raises(ValueError, match="unknown option of kind 'slurm' 'qeue'; did you mean 'queue'"):
            described(path).cluster()

    def test_a_cluster_whose_connections_would_not_be_encrypted(self, tmp_path):
        path = tmp_path / "cluster.toml"
        path.write_text("kind = 'slurm'\njobs = 1\noptions = {cores = 1, memory = '1GB'}")
        with pytest.raises(ValueError, match="can run code as you: give security = true") as refused:
            described(path).cluster()
        assert "distributed.comm.tls" in str(refused.value)
        assert "insecure = true above [options]" in str(refused.value)

    def test_a_local_cluster_that_would_be_seen_by_others(self, tmp_path):
        path = tmp_path / "cluster.toml"
        text = "kind = 'local'\njobs = 1\noptions = {{cores = 1, memory = '1GB', {}}}"
        for option in ("interface = 'eth0'", "scheduler_options = {host = '0.0.0.0'}"):
            path.write_text(text.format(option))
            with pytest.raises(ValueError, match=r"it stays on this machine, given .*leave interface and host out"):
                described(path).cluster()

    def test_a_cluster_without_any_worker_is_not_waited_for_without_end(self, monkeypatch):
        monkeypatch.setattr(cluster, "LOOK", 0.01)
        said = []
        assert list(cluster._arrivals(Pending(), dict, 0.2, said.append)) == []
        assert said == [f"no worker of the cluster is there; {cluster.NO_WORKER}"]

    def test_what_dask_gave_up_fails_its_runs_alone(self):
        jobs = [job(0), job(1)]
        lost = (RuntimeError, RuntimeError("4 workers died"), None)
        ends = cluster._ends([[each] for each in jobs], "error", lost, Lines())
        assert [(end.job, end.error) for end in ends] == [
            (each, "RuntimeError: 4 workers died; what it had finished stays") for each in jobs
        ]
        assert "dropped it (cancelled)" in cluster._ends([[jobs[0]]], "cancelled", None, Lines())[0].error


LISTENING = """
import sys
from pathlib import Path
import psutil
from distributed import Client
from eltbench.execution.cluster import described
with described(Path(sys.argv[1])).cluster() as made, Client(made) as client:
    made.scale(jobs=1)
    client.wait_for_workers(1, 300)
    me = psutil.Process()
    for process in (me, *me.children(recursive=True)):
        for each in process.net_connections("inet"):
            if each.status == psutil.CONN_LISTEN:
                print(each.laddr.ip)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="listening sockets are looked up in /proc")
def test_a_local_cluster_listens_on_this_machine_alone(tmp_path):
    path = tmp_path / "cluster.toml"
    path.write_text(JOBS.format(folder=tmp_path))
    command = [sys.executable, "-c", LISTENING, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) >= 4  # scheduler and its page, worker and its page
    assert set(done.stdout.split()) == {"127.0.0.1"}


WORKERLESS = """
import sys
from faulty_plugin import job
from eltbench.execution.executors import opened
from eltbench.execution.progress import Lines
from eltbench.execution.store import RunStore
from eltbench.execution.sweep import sweep
with opened("dask", sys.argv[1], 1) as executor:
    print(sweep([job()], RunStore(sys.argv[2]), progress=Lines(), executor=executor).failed)
"""


@pytest.mark.slow
def test_workers_that_cannot_start_fail_their_runs_with_a_word_on_where_to_look(tmp_path, plugin):
    lines = ["wait_minutes = 0.05", *JOBS.format(folder=tmp_path).splitlines(), "python = '/nowhere/python'"]
    (tmp_path / "cluster.toml").write_text("\n".join(lines))
    command = [sys.executable, "-c", WORKERLESS, str(tmp_path / "cluster.toml"), str(tmp_path / "runs")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert "no worker was there for 3.0 s; look at the queue and at the jobs' own output" in done.stdout


@pytest.fixture
def certificate(tmp_path):
    """The files of a certificate with which dask is configured to speak TLS."""
    openssl, dask = shutil.which("openssl"), pytest.importorskip("dask")
    if openssl is None:
        pytest.skip("openssl is not here to make a certificate")
    files = {"key": str(tmp_path / "key.pem"), "cert": str(tmp_path / "cert.pem")}
    made = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=dask"]
    command = [openssl, *made, "-keyout", files["key"], "-out", files["cert"]]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    its = {f"{role}.{name}": path for role in ("scheduler", "worker", "client") for name, path in files.items()}
    with dask.config.set(
        {f"distributed.comm.tls.{name}": path for name, path in {"ca-file": files["cert"], **its}.items()}
    ):
        yield files


@pytest.mark.slow
def test_other_clusters_speak_tls_as_dask_is_configured(tmp_path, certificate):
    path = tmp_path / "cluster.toml"
    path.write_text("kind = 'slurm'\njobs = 1\noptions = {cores = 1, memory = '1GB'}")
    with described(path).cluster() as made:
        assert made.scheduler_address.startswith("tls://")
        assert f"--tls-cert {certificate['cert']}" in made.job_script()
        assert "--dashboard-address 127.0.0.1:0" in made.job_script()
    assert cluster.exposed(str(path), described(path)) == ""


def test_a_cluster_without_encryption_is_had_by_a_flag_and_warned_of(tmp_path):
    path = tmp_path / "cluster.toml"
    path.write_text("kind = 'slurm'\njobs = 1\ninsecure = true\noptions = {cores = 1, memory = '1GB'}")
    with described(path).cluster() as made:
        assert made.scheduler_address.startswith("tcp://")
    assert "not encrypted (insecure = true): whoever reaches its ports" in cluster.exposed(str(path), described(path))


@pytest.mark.parametrize(
    ("address", "warned"),
    [
        ("tcp://10.0.0.7:8786", True),
        ("login-node:8786", True),
        ("tcp://127.0.0.1:8786", False),
        ("localhost:8786", False),
        ("tls://login-node:8786", False),
    ],
)
def test_an_address_on_a_network_is_warned_of_unless_it_is_encrypted(address, warned):
    assert ("an address tls://" in cluster.exposed(address, None)) == warned


def test_the_file_of_the_documentation_asks_slurm_for_a_gpu_a_job(tmp_path, certificate):
    page = (Path(__file__).parents[2] / "docs" / "cluster.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"^```toml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    path = tmp_path / "cluster.toml"
    path.write_text(text)
    with described(path).cluster() as made:
        script = made.job_script()
    for line in ("#SBATCH --gres=gpu:1", "#SBATCH -p gpu", "#SBATCH -t 08:00:00", "--nthreads 1"):
        assert line in script


class TestGPUs:
    @pytest.fixture(autouse=True)
    def three(self, monkeypatch, tmp_path):
        monkeypatch.setenv(gpus.VISIBLE, "0,1, GPU-7f")
        monkeypatch.setattr(gpus.tempfile, "gettempdir", lambda: str(tmp_path))

    def test_no_two_processes_have_one_gpu(self):
        with gpus.claimed(1) as first, gpus.claimed(2) as others:
            assert (first, others) == ({gpus.VISIBLE: "0"}, {gpus.VISIBLE: "1,GPU-7f"})
        with gpus.claimed(1) as freed:
            assert freed == first

    def test_who_finds_too_few_free_ones_holds_none_while_it_waits(self, monkeypatch):
        taken = ExitStack()
        taken.enter_context(gpus.claimed(2))

        def meanwhile(seconds):
            with gpus.claimed(1) as last:  # the one that the waiting claimant could have kept
                assert last == {gpus.VISIBLE: "GPU-7f"}
            taken.close()

        monkeypatch.setattr(gpus.time, "sleep", meanwhile)
        with gpus.claimed(2) as mine:
            assert mine == {gpus.VISIBLE: "0,1"}

    def test_more_than_there_are_is_refused(self):
        with pytest.raises(ValueError, match=r"4 GPUs are asked for, and .* has 3"), gpus.claimed(4):
            pass

    def test_no_gpu_is_visible_where_none_is_named(self, monkeypatch):
        monkeypatch.setenv(gpus.VISIBLE, "")
        assert gpus.visible() == []

    def test_the_indices_of_what_the_driver_lists(self, monkeypatch, tmp_path):
        lines = ("GPU 0: NVIDIA H200 (UUID: GPU-1)", "  MIG 1g.18gb Device 0: (UUID: MIG-2)", "GPU 1: NVIDIA H200")
        (tmp_path / "nvidia-smi").write_text("#!/bin/sh\n" + "".join(f"echo '{line}'\n" for line in lines))
        (tmp_path / "nvidia-smi").chmod(0o755)
        monkeypatch.delenv(gpus.VISIBLE)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        assert gpus.visible() == ["0", "1"]


def test_a_run_on_a_gpu_has_one_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv(gpus.VISIBLE, "5,6")
    monkeypatch.setattr(gpus.tempfile, "gettempdir", lambda: str(tmp_path))
    seen = []
    monkeypatch.setattr(cluster.Local, "make", lambda self, *arguments: seen.append(json.dumps(dict(self.environment))))
    (tmp_path / "mark").touch()
    asked = job(0)
    for device in ("cuda", "cpu"):
        cluster.make_there(
            [[replace(asked, run=replace(asked.run, device=device))]],
            str(tmp_path / "mark"),
            cluster.eltbench.__version__,
        )
    assert seen == ['{"CUDA_VISIBLE_DEVICES": "5"}', "{}"]
