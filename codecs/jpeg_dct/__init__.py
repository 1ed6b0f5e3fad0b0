"""JPEG images of sequential DCT (ITU-T T.81), taken apart into coefficients and headers, and put together again."""
