"""What the node keeps: spool, blobs and catalog, and everything between them. No network.

The public face is `dcmpress.storage.archive`; the other modules are its parts, ground floor first:
`elements`, `leading`, `part10`, `spool`, `split`, `grouping`, `blob`, `blobstore`, `catalog`,
`transcode`, `pipeline`, `retrieve`, `verify`, `archive`.
"""
