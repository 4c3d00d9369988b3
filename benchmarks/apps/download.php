<?php
header("Content-Type: application/octet-stream");
header("Content-Length: " . filesize("download.bin"));
readfile("download.bin");
