"""The action for each XID, from NVIDIA's XID catalogue.

https://docs.nvidia.com/deploy/xid-errors/analyzing-xid-catalog.html: its "immediate action" under
the project's own names. XIDs that no current GPU reports are left out: the catalogue's action for
them is `report`. It has no action for 162 to 172: theirs is that of the nearest XID. docs/xids.md
has the same table.
"""

from __future__ import annotations

RESTART_APPLICATION = "restart_application"
RESET = "reset"
REBOOT = "reboot"
CHECK_CONNECTION = "check_connection"
CHECK_NVLINK = "check_nvlink"
UPDATE_DRIVER = "update_driver"
RECOVERY_ACTION = "recovery_action"
OTHER_XID = "other_xid"
IGNORE = "ignore"
REPORT = "report"

REMEDIES = {
    RESTART_APPLICATION: "restart the application; if it occurs again, use compute-sanitizer",
    RESET: "drain the GPU and reset it (nvidia-smi --gpu-reset)",
    REBOOT: "drain the host and reboot it; a virtual machine: restart it",
    CHECK_CONNECTION: "drain the GPU; check its power cables, slot and NVLink connectors",
    CHECK_NVLINK: "check the NVLinks (nvidia-smi nvlink -s, -e) and the fabric manager's log",
    UPDATE_DRIVER: "update the driver, or the vGPU software of host and guest",
    RECOVERY_ACTION: "perform the action of gpu_recovery_action, which has changed",
    OTHER_XID: "follow the XID of the same time; alone: restart the application",
    IGNORE: "none",
    REPORT: "run nvidia-bug-report.sh and report it to NVIDIA's or the vendor's support",
}
"""Texts for operators, by action."""

XIDS: dict[str, tuple[int, ...]] = {
    RESTART_APPLICATION: (
        *(8, 11, 13, 25, 31, 32, 39, 40, 41, 60, 68, 69, 70, 71, 72, 75, 76, 77, 80),
        *(82, 83, 84, 85, 86, 88, 89, 94, 96, 97, 98, 99),
        *range(100, 106),
        *range(126, 136),
        139,
    ),
    RESET: (
        *(46, 48, 62, 64, 95, 109, 110, 119, 120, 136, 140, 143, 155, 156, 158),
        *(167, 169, 171, 172),
    ),
    REBOOT: (79, 151),
    CHECK_CONNECTION: (54, 74),
    CHECK_NVLINK: tuple(range(144, 151)),
    UPDATE_DRIVER: (78,),
    RECOVERY_ACTION: (154,),
    OTHER_XID: (45,),
    IGNORE: (
        *(14, 37, 38, 43, 44, 63, 66, 67, 92, 93, 106, 107, 108, 121, 137, 141),
        *(152, 153, 157, 160, 161, 162, 163),
    ),
    REPORT: (142, 159, 164, 165, 166, 168, 170),
}
"""The XIDs by action."""

_ACTIONS = {xid: action for action, xids in XIDS.items() for xid in xids}
FATAL_ACTIONS = (RESET, CHECK_CONNECTION, REBOOT)
"""Actions before which the GPU is not used further; the last ones include the first."""
FATAL_XIDS = frozenset(xid for action in FATAL_ACTIONS for xid in XIDS[action])
"""XIDs after which the GPU is not used further until the action was performed."""


def action(xid: int) -> str:
    """Returns the action of an XID: a key of XIDS; `report` for an unknown one."""
    return _ACTIONS.get(xid, REPORT)
