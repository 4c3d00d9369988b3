<?php
$input = fopen("php://input", "rb");
$size = 0;
while (!feof($input)) {
    $size += strlen(fread($input, 65536));
}
header("Content-Type: text/plain");
header("Content-Length: " . strlen("$size\n"));
echo "$size\n";
