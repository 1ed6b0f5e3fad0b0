"""DICOM on the wire: associations and the services on them.

Thin: messages are translated to `dcmpress.storage.archive` and back. Ground floor first: `commands`,
`upper_layer`, `contexts`, `negotiation`, `association`, `status`, then the services (`echo`, `store`,
`find`, `retrieve`) and `server`.
"""
