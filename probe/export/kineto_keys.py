"""The names of Kineto's fields and categories for its writer: those that the reader knows are taken from it."""

from __future__ import annotations

from msgspec import structs

from probe.readers import kineto_json as reader


def _names(struct: type) -> dict[str, str]:
    return {field.name: field.encode_name for field in structs.fields(struct)}


_ARGS = _names(reader.Args)
_DEVICE = _names(reader.DeviceProperties)
_DISTRIBUTED = _names(reader.DistributedInfo)
_HEAD = _names(reader.Head)
_EVENT = _names(reader.Event)

# Arguments of events.
EXTERNAL_ID = _ARGS["external_id"]
RECORD_FUNCTION = _ARGS["record_function"]
SEQUENCE = _ARGS["sequence"]
FORWARD_THREAD = _ARGS["forward_thread"]
CORRELATION = _ARGS["correlation"]
DIMS = _ARGS["dims"]
DTYPES = _ARGS["types"]
STRIDES = _ARGS["strides"]
SCALARS = _ARGS["scalars"]
GENERATED_BY = _ARGS["kernel_backend"]
GENERATED_HASH = _ARGS["kernel_hash"]
GENERATED_FILE = _ARGS["kernel_file"]
GENERATED_WARPS = _ARGS["warps"]
GENERATED_STAGES = _ARGS["stages"]
DEVICE = _ARGS["device"]
STREAM = _ARGS["stream"]
BYTES = _ARGS["bytes"]
GRAPH = _ARGS["graph"]
GRID = _ARGS["grid"]  # of a launch a list, of a generated kernel text
BLOCK = _ARGS["block"]
REGISTERS = _ARGS["registers"]
SHARED_BYTES = _ARGS["shared_bytes"]
OCCUPANCY_PERCENT = _ARGS["occupancy_percent"]
COLLECTIVE = _ARGS["collective"]
COLLECTIVE_DTYPE = _ARGS["collective_dtype"]
IN_ELEMENTS = _ARGS["in_elements"]
OUT_ELEMENTS = _ARGS["out_elements"]
GROUP = _ARGS["group"]
GROUP_SIZE = _ARGS["group_size"]
GROUP_RANKS = _ARGS["group_ranks"]  # a list as text: "[0, 1]"
SOURCE_RANK = _ARGS["source_rank"]
TARGET_RANK = _ARGS["target_rank"]
COLLECTIVE_SEQUENCE = _ARGS["collective_sequence"]

# At the top level.
DEVICES = _HEAD["devices"]
DEVICE_ID = _DEVICE["id"]
DEVICE_NAME = _DEVICE["name"]
DEVICE_MAJOR = _DEVICE["major"]
DEVICE_MINOR = _DEVICE["minor"]
DEVICE_SMS = _DEVICE["sm_count"]
DEVICE_MEMORY = _DEVICE["memory_bytes"]
DISTRIBUTED = _HEAD["distributed"]
RANK = _DISTRIBUTED["rank"]
WORLD_SIZE = _DISTRIBUTED["world_size"]
BASE_NS = _HEAD["base_ns"]
EVENTS = reader.EVENT_LIST

# Of every event.
PHASE = _EVENT["ph"]
CATEGORY = _EVENT["cat"]
NAME = _EVENT["name"]
PROCESS = _EVENT["pid"]
THREAD = _EVENT["tid"]
START_US = _EVENT["ts"]
DURATION_US = _EVENT["dur"]
ARGUMENTS = _EVENT["args"]

# Categories, and phases of events.
OPERATOR = reader.OPERATOR
RUNTIME = reader.RUNTIME
DRIVER = reader.DRIVER
KERNEL = reader.KERNEL
COPY = reader.COPY
SET = reader.SET
ANNOTATION = reader.ANNOTATION
DEVICE_ANNOTATION = reader.DEVICE_ANNOTATION
COMPLETE = reader.COMPLETE

# What the reader does not look at.
SCHEMA_VERSION = "schemaVersion"
DISPLAY_UNIT = "displayTimeUnit"
WITH_SHAPES = "record_shapes"
METADATA = "M"
ARROW = "ac2g"  # from a launch to what it launched
ARROW_STARTS, ARROW_ENDS = "s", "f"
ARROW_ID = "id"
BINDING, ENCLOSING = "bp", "e"  # an arrow ends at the event that encloses its time
PROCESS_NAME, PROCESS_LABELS, PROCESS_ORDER, THREAD_NAME = (
    "process_name", "process_labels", "process_sort_index", "thread_name",
)  # fmt: skip
LABEL_OF = {PROCESS_NAME: "name", PROCESS_LABELS: "labels", PROCESS_ORDER: "sort_index", THREAD_NAME: "name"}
