/*
 * set_fault NAME VALUE: sets an int in the map .data of the scheduler that is loaded, as its user would with bpftool: finds the
 * map by its name, the variable by the map's BTF.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <bpf/btf.h>

/* The descriptor of the newest map of that name's end, -1: none. */
static int find_map(const char *end, struct bpf_map_info *info)
{
	int found = -1;
	__u32 id = 0;

	while (bpf_map_get_next_id(id, &id) == 0) {
		int fd = bpf_map_get_fd_by_id(id);
		__u32 size = sizeof(*info);
		size_t length;

		memset(info, 0, sizeof(*info));
		if (fd < 0 || bpf_obj_get_info_by_fd(fd, info, &size) != 0)
			continue;
		length = strlen(info->name);
		if (length < strlen(end) || strcmp(info->name + length - strlen(end), end) != 0) {
			close(fd);
			continue;
		}
		if (found >= 0)
			close(found);
		found = fd;
	}
	if (found >= 0) {
		__u32 size = sizeof(*info);

		bpf_obj_get_info_by_fd(found, info, &size);
	}
	return found;
}

/* Where the variable is in the section; -1: nowhere. */
static long offset_of(const struct btf *btf, const char *name)
{
	const __s32 section = btf__find_by_name_kind(btf, ".data", BTF_KIND_DATASEC);
	const struct btf_type *type = section < 0 ? NULL : btf__type_by_id(btf, (__u32)section);

	for (__u32 i = 0; type != NULL && i < btf_vlen(type); i++) {
		const struct btf_var_secinfo *var = btf_var_secinfos(type) + i;
		const struct btf_type *of = btf__type_by_id(btf, var->type);

		if (var->size == sizeof(int) && strcmp(btf__name_by_offset(btf, of->name_off), name) == 0)
			return var->offset;
	}
	return -1;
}

int main(int argc, char **argv)
{
	struct bpf_map_info info = { 0 };
	struct btf *btf;
	const int key = 0;
	char *value;
	long offset;
	int map, number;

	if (argc != 3)
		return 2;
	map = find_map(".data", &info);
	btf = map < 0 ? NULL : btf__load_from_kernel_by_id(info.btf_id);
	offset = btf == NULL ? -1 : offset_of(btf, argv[1]);
	value = calloc(1, info.value_size);
	if (offset < 0 || value == NULL || (size_t)offset + sizeof(int) > info.value_size ||
	    bpf_map_lookup_elem(map, &key, value) != 0) {
		fprintf(stderr, "set_fault: no %s: %s\n", argv[1], strerror(errno));
		return 1;
	}
	number = atoi(argv[2]);
	memcpy(value + offset, &number, sizeof(number));
	if (bpf_map_update_elem(map, &key, value, BPF_ANY) != 0) {
		fprintf(stderr, "set_fault: cannot set %s: %s\n", argv[1], strerror(errno));
		return 1;
	}
	printf("set_fault: %s is %d\n", argv[1], number);
	return 0;
}
