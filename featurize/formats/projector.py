"""The folder that TensorBoard's embedding projector shows: two tables and their configuration."""

from pathlib import Path

from featurize.formats.rows import CacheRows
from featurize.formats.tables import write_numbers

CONFIGURATION = "projector_config.pbtxt"
CONTROL = str.maketrans("\t\n\r", "   ")


def write_projector(rows: CacheRows, folder: Path) -> None:
    """Write the vectors, their labels and the configuration into an existing folder.

    The files are those of https://www.tensorflow.org/tensorboard/tensorboard_projector_plugin, and
    `frozenbench.json`, the description of the cache.
    """
    write_numbers(rows, folder / "vectors.tsv")
    with (folder / "metadata.tsv").open("w", encoding="utf-8") as file:
        columns = ["label", "split", "id", *(["path"] if rows.paths else [])]
        file.write("\t".join(columns) + "\n")
        for split in rows.splits:
            for block in rows.blocks(split):
                labels = [rows.info.class_names[label] for label in block.features.y]
                for index, (label, number) in enumerate(zip(labels, block.features.ids, strict=True)):
                    words = [label, split, str(number)]
                    if block.paths is not None:
                        words.append(str(block.paths[index]))
                    file.write("\t".join(word.translate(CONTROL) for word in words) + "\n")
    (folder / CONFIGURATION).write_text(
        'embeddings {\n  tensor_name: "features"\n  tensor_path: "vectors.tsv"\n  metadata_path: "metadata.tsv"\n}\n'
    )
    (folder / "frozenbench.json").write_text(rows.metadata)
