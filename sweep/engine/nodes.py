"""On which nodes a run's work is done: of one kind, that of the records it has."""

from __future__ import annotations

from lorasweep.features.common.errors import UserError
from lorasweep.features.common.files import DamagedFileError
from lorasweep.features.common.hardware import CPU, Hardware
from lorasweep.trainables.store.record import read_record
from lorasweep.trainables.store.trial_key import TrialKey

from .invocation import Invocation


def require_room(run: Invocation) -> None:
    """Raise a `UserError` where no node that takes part has what a trial asks for."""
    from .packing import trial_resources

    try:
        trial_resources(run.options, run.nodes.each())
    except UserError as error:
        run.nodes.require_shared()  # it is for that
        raise _of_another_kind(run) or error from None


def freeze_kinds(run: Invocation) -> None:
    """Find out on what the run's records were made: what remains is done on the same.

    A record that does not say it, as earlier versions' do not, binds nobody.
    """
    if run.options.any_device:
        return
    nodes = run.nodes
    for key, fingerprint in run.sweep.fingerprints.items():
        hardware = (
            None if key.classifier in run.devices else _hardware_of_record(run, key, fingerprint)
        )
        if hardware is not None:
            uses_gpu = bool(device_bytes(run, key))
            run.devices[key.classifier] = hardware.device if uses_gpu else ""
            nodes.instructions = nodes.instructions or hardware.instructions
            if uses_gpu and hardware.device != CPU:
                nodes.gpu = nodes.gpu or hardware.device


def _hardware_of_record(run: Invocation, key: TrialKey, fingerprint: str) -> Hardware | None:
    """On what a trial was done, as far as its record says; None: it has none."""
    try:
        record = read_record(run.run_dir, key)
    except (OSError, DamagedFileError):
        return None
    if record["fingerprint"] != fingerprint:
        return None
    made = record["environment"]
    if "instructions" not in made:
        return Hardware()
    return Hardware(CPU if made["device"] == CPU else made["device_name"], made["instructions"])


def device_bytes(run: Invocation, key: TrialKey) -> int:
    """GPU memory that a trial takes at most, where it is given one; 0: it uses none."""
    declared, scan = run.declared.classifiers[key.classifier], run.scan
    size = run.declared.data_size(key.config, key.method, scan)
    return declared.classifier.device_bytes(size, declared.settings)


def _of_another_kind(run: Invocation) -> UserError | None:
    if not run.nodes.refused:
        return None
    begun = {str(Hardware(device, run.nodes.instructions)) for device in run.devices.values()}
    found = {str(hardware) for hardware in run.nodes.refused.values()}
    own = " and ".join(sorted(begun or {str(run.nodes.hardware)}))
    return UserError(
        f"this run's trials are done on {own}, "
        f"and here is {' and '.join(sorted(found))}, where last bits "
        "differ: go on where they began, or with --any-device"
    )
