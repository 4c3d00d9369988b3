<?php
$page = substr(str_repeat("Hello, world!\n", 1463), 0, 20480);
header("Content-Type: text/html; charset=utf-8");
header("Content-Length: 20480");
echo $page;
